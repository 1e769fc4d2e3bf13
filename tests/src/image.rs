//! An image that follows: the built one with one byte changed that no code reads, so another
//! MRENCLAVE, signed by a key of the test's own.

use std::path::{Path, PathBuf};

use anyhow::Context;
use toani_enclave_host::image::{Content, Image, Signing, sign};
use toani_protocol::Hash;

/// Compilers fill the space between two functions with it.
const INT3: u8 = 0xcc;
const NOP: u8 = 0x90;
const GAP_BYTES: usize = 8;

/// A folder of programs like `programs`, but for the image. Also says what that is measured as.
pub fn successor(programs: &Path, folder: &Path) -> anyhow::Result<(PathBuf, Hash)> {
    let next = folder.join("next");
    std::fs::create_dir(&next)?;
    for entry in std::fs::read_dir(programs)? {
        let entry = entry?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        let image = text.starts_with("toani-image") || text.ends_with(".d");
        if entry.file_type()?.is_file() && text.starts_with("toani") && !image {
            // A copy: through a link a program would find itself in the other folder.
            std::fs::copy(entry.path(), next.join(name))?;
        }
    }
    let mut file = std::fs::read(programs.join("toani-image"))?;
    let honest = Image::read(&file)?;
    let at = gap(&file, &honest)?;
    file[at] = NOP;
    let image = Image::read(&file)?;
    anyhow::ensure!(image.mrenclave() != honest.mrenclave(), "the byte is not measured");
    std::fs::write(next.join("toani-image"), &file)?;
    let mut random = rand_core::UnwrapErr(getrandom::SysRng);
    let exponent = rsa::BoxedUint::from(3_u8);
    let key = rsa::PrivateKey::new_with_exp(&mut random, 3072, exponent)?;
    let signing = Signing { mrenclave: image.mrenclave(), isv_prod_id: 1, isv_svn: 1, date: 0 };
    std::fs::write(next.join("toani-image.sig"), sign(&key, &signing)?)?;
    Ok((next, Hash::new(image.mrenclave())))
}

/// Where in the file the code has a gap between two functions.
fn gap(file: &[u8], image: &Image) -> anyhow::Result<usize> {
    let first = image.regions.first().context("an image has code")?;
    let Content::Measured(code) = &first.content else { anyhow::bail!("code is measured") };
    let in_code = code.windows(GAP_BYTES).position(|bytes| bytes == [INT3; GAP_BYTES]);
    let in_code = in_code.context("there is no gap in the code")?;
    let start =
        file.windows(64).position(|part| part == &code[..64]).context("the code's start")?;
    Ok(start + in_code + GAP_BYTES / 2)
}
