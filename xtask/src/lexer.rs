//! Just enough of Rust's lexical structure to tell code from comments, texts and tests.

/// What a byte of a source file belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Code,
    Comment,
    Text,
}

/// The source without comments and without what stands in literals; line breaks stay.
pub(crate) fn code_only(source: &str) -> String {
    let parts = parts(source.as_bytes());
    let kept = source.char_indices().map(|(at, c)| match parts.get(at) {
        Some(Part::Code) => c,
        _ if c == '\n' => c,
        _ => ' ',
    });
    kept.collect()
}

/// The source without items that are compiled for tests only (`#[cfg(test)]` and its item).
pub(crate) fn without_tests(source: &str) -> String {
    let code = code_only(source);
    let mut out = String::with_capacity(source.len());
    let mut from = 0;
    // `code` has blanks for other characters, so positions are found through its own bytes only
    // where both are ASCII; `blank_alike` keeps the lengths equal.
    let code = blank_alike(source, &code);
    while let Some(found) = code.get(from..).and_then(|rest| rest.find("#[cfg(test)]")) {
        let start = from + found;
        out.push_str(source.get(from..start).unwrap_or_default());
        from = end_of_item(code.as_bytes(), start);
    }
    out.push_str(source.get(from..).unwrap_or_default());
    out
}

/// Names of modules that stand in files of their own and are compiled for tests only.
pub(crate) fn test_modules(source: &str) -> Vec<String> {
    let code = code_only(source);
    let mut names = Vec::new();
    for after in code.split("#[cfg(test)]").skip(1) {
        let item = after.split(['{', ';']).next().unwrap_or_default();
        let declared = after.get(item.len()..).is_some_and(|rest| rest.starts_with(';'));
        let words: Vec<&str> = words(item).map(|(_, word)| word).collect();
        if let ([.., "mod", name], true) = (words.as_slice(), declared) {
            names.push((*name).to_owned());
        }
    }
    names
}

/// Identifiers and keywords, with the number of their line.
pub(crate) fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().flat_map(|(number, line)| {
        line.split(|c: char| !c.is_alphanumeric() && c != '_')
            .filter(|word| !word.is_empty())
            .map(move |word| (number + 1, word))
    })
}

/// Pads blanks so that byte positions in `code` are those of `source`.
fn blank_alike(source: &str, code: &str) -> String {
    let mut out = String::with_capacity(source.len());
    for (from, to) in source.chars().zip(code.chars()) {
        if from == to {
            out.push(to);
        } else {
            out.extend(std::iter::repeat_n(' ', from.len_utf8()));
        }
    }
    out
}

/// Where the item that follows an attribute ends: its closing brace, or its semicolon.
fn end_of_item(code: &[u8], start: usize) -> usize {
    let mut depth = 0usize;
    for (at, byte) in code.iter().enumerate().skip(start) {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && *byte == b'}' {
                    return at + 1;
                }
            }
            b';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

fn parts(source: &[u8]) -> Vec<Part> {
    let mut parts = vec![Part::Code; source.len()];
    let mut at = 0;
    while let Some(byte) = source.get(at) {
        let (end, part) = match byte {
            b'/' if source.get(at + 1) == Some(&b'/') => (end_of_line(source, at), Part::Comment),
            b'/' if source.get(at + 1) == Some(&b'*') => (end_of_block(source, at), Part::Comment),
            b'"' => (end_of_string(source, at), Part::Text),
            b'r' if is_raw_string(source, at) => (end_of_raw_string(source, at), Part::Text),
            b'\'' => (end_of_char(source, at), Part::Text),
            _ => (at + 1, Part::Code),
        };
        let end = end.min(source.len());
        if part != Part::Code {
            parts.iter_mut().take(end).skip(at).for_each(|p| *p = part);
        }
        at = end.max(at + 1);
    }
    parts
}

fn end_of_line(source: &[u8], at: usize) -> usize {
    let rest = source.iter().skip(at);
    at + rest.take_while(|byte| **byte != b'\n').count()
}

fn end_of_block(source: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0usize);
    while at < source.len() {
        match (source.get(at), source.get(at + 1)) {
            (Some(b'/'), Some(b'*')) => {
                depth += 1;
                at += 2;
            }
            (Some(b'*'), Some(b'/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    at
}

fn end_of_string(source: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = source.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

fn is_raw_string(source: &[u8], at: usize) -> bool {
    let before = at.checked_sub(1).and_then(|before| source.get(before));
    if before.is_some_and(|b| b.is_ascii_alphanumeric() && *b != b'b' || *b == b'_') {
        return false;
    }
    let hashes = source.iter().skip(at + 1).take_while(|b| **b == b'#').count();
    source.get(at + 1 + hashes) == Some(&b'"')
}

fn end_of_raw_string(source: &[u8], start: usize) -> usize {
    let hashes = source.iter().skip(start + 1).take_while(|b| **b == b'#').count();
    let mut at = start + hashes + 2;
    while let Some(byte) = source.get(at) {
        let closing = source.iter().skip(at + 1).take(hashes);
        if *byte == b'"' && closing.filter(|b| **b == b'#').count() == hashes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    at
}

/// A character literal ends with a quote; a lifetime has none, and only its tick is skipped.
fn end_of_char(source: &[u8], at: usize) -> usize {
    if source.get(at + 1) == Some(&b'\\') {
        let mut end = at + 3;
        while source.get(end).is_some_and(|byte| *byte != b'\'' && *byte != b'\n') {
            end += 1;
        }
        return end + 1;
    }
    // One character of up to four bytes.
    (2..=5)
        .find(|width| source.get(at + width) == Some(&b'\''))
        .filter(|width| *width == 2 || source.get(at + 1).is_some_and(|b| !b.is_ascii()))
        .map_or(at + 1, |width| at + width + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_texts_are_no_code() {
        let source = "let a = \"std::\"; // std::\n/* std:: /* */ */ let b = r#\"std::\"x\"#; let c = '\"'; fn f<'a>() {}";
        let code = code_only(source);
        assert!(!code.contains("std"), "{code}");
        assert!(code.contains("fn f<"), "{code}");
        assert_eq!(code.lines().count(), source.lines().count());
    }

    #[test]
    fn tests_are_cut_out_and_nothing_else() {
        let source = "fn a() { \"}\"; }\n// ä {\n#[cfg(test)]\nmod tests {\n fn b() { '{'; }\n}\nfn c() {}\n#[cfg(test)] use x;\nfn d() {}";
        let rest = without_tests(source);
        assert!(rest.contains("fn a") && rest.contains("fn c") && rest.contains("fn d"));
        assert!(!rest.contains("fn b") && !rest.contains("use x"), "{rest}");
        assert_eq!(
            test_modules("#[cfg(test)]\npub(crate) mod fixture;\n#[cfg(test)] mod x {}"),
            ["fixture"]
        );
    }
}
