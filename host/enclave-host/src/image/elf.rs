//! The linked file: its loadable segments and its own word about the rest.

use object::{
    LittleEndian, Object, ObjectSection,
    elf::{FileHeader64, PF_R, PF_W, PF_X, PT_LOAD},
    read::elf::{ElfFile, ProgramHeader},
};

use super::{Content, Layout, PAGE_BYTES, Region, Rights};

/// Largest image that is read, in bytes of the file and of its segments in memory.
const IMAGE_BYTES_MAX: u64 = 64 << 20;
/// Most threads that an image may have.
const THREADS_MAX: u64 = 64;

const LAYOUT_SECTION: &str = ".toani.layout";
const LAYOUT_MAGIC: &[u8; 16] = b"toani-layout/1\0\0";

/// Why a file is no image.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("not an ELF file for x86-64: {0}")]
    Elf(#[from] object::Error),
    #[error("the image has a segment that cannot be loaded: {0}")]
    Segment(&'static str),
    #[error("the image's section .toani.layout is missing or does not fit; is it of this version?")]
    Layout,
}

type Elf<'a> = ElfFile<'a, FileHeader64<LittleEndian>>;

/// The image's layout and the regions that come from its segments.
pub(super) fn read(file: &[u8]) -> Result<(Layout, Vec<Region>), ImageError> {
    if file.len() as u64 > IMAGE_BYTES_MAX {
        return Err(ImageError::Segment("the file is too large"));
    }
    let elf = Elf::parse(file)?;
    let layout = layout(&elf)?;
    if elf.entry() != 0 {
        return Err(ImageError::Segment("the entry is not at offset 0"));
    }
    let mut regions = Vec::<Region>::new();
    for segment in elf.elf_program_headers() {
        if segment.p_type(LittleEndian) == PT_LOAD {
            let region = region(segment, file)?;
            let end = regions.last().map_or(0, |last| last.offset + last.bytes);
            if region.offset != end {
                return Err(ImageError::Segment("segments leave a gap or overlap"));
            }
            regions.push(region);
        }
    }
    if regions.is_empty() {
        return Err(ImageError::Segment("there is none"));
    }
    Ok((layout, regions))
}

fn region(
    segment: &object::elf::ProgramHeader64<LittleEndian>,
    file: &[u8],
) -> Result<Region, ImageError> {
    let offset = segment.p_vaddr(LittleEndian);
    let in_memory = segment.p_memsz(LittleEndian);
    let content = segment
        .data(LittleEndian, file)
        .map_err(|()| ImageError::Segment("it lies outside of the file"))?;
    let fits = offset.is_multiple_of(PAGE_BYTES)
        && offset <= IMAGE_BYTES_MAX
        && in_memory <= IMAGE_BYTES_MAX
        && content.len() as u64 <= in_memory;
    if !fits {
        return Err(ImageError::Segment("its place or size"));
    }
    let flags = segment.p_flags(LittleEndian);
    let rights = match flags & (PF_R | PF_W | PF_X) {
        rx if rx == PF_R | PF_X => Rights::ReadExecute,
        r if r == PF_R => Rights::Read,
        rw if rw == PF_R | PF_W => Rights::ReadWrite,
        _ => return Err(ImageError::Segment("its rights")),
    };
    let bytes = in_memory.next_multiple_of(PAGE_BYTES);
    let mut content = content.to_vec();
    content.resize(usize::try_from(bytes).unwrap_or(usize::MAX), 0);
    Ok(Region { offset, bytes, rights, content: Content::Measured(content) })
}

fn layout(elf: &Elf<'_>) -> Result<Layout, ImageError> {
    let section = elf.section_by_name(LAYOUT_SECTION).ok_or(ImageError::Layout)?;
    let numbers = section.data()?.strip_prefix(LAYOUT_MAGIC).ok_or(ImageError::Layout)?;
    let numbers: Vec<u64> =
        numbers.as_chunks::<8>().0.iter().map(|number| u64::from_le_bytes(*number)).collect();
    let [elrange_bytes, heap_bytes, stack_bytes, ssa_frames, threads] = numbers[..] else {
        return Err(ImageError::Layout);
    };
    let pages = [heap_bytes, stack_bytes].iter().all(|bytes| bytes.is_multiple_of(PAGE_BYTES));
    let small = [heap_bytes, stack_bytes].iter().all(|bytes| *bytes < elrange_bytes);
    let counts = (1..=THREADS_MAX).contains(&threads) && (1..=16).contains(&ssa_frames);
    if pages && small && counts && elrange_bytes.is_power_of_two() && elrange_bytes < 1 << 40 {
        Ok(Layout { elrange_bytes, heap_bytes, stack_bytes, ssa_frames, threads })
    } else {
        Err(ImageError::Layout)
    }
}
