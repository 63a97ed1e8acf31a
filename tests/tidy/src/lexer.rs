//! Just enough of Rust's lexer to tell code from comments and literals.

/// The same text, line by line and column by column, with comments and the insides of literals blanked.
pub fn code_only(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_word = out.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let length = blank_length(rest, after_word);
        if length == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        out.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[length..];
    }
    out
}

/// Code without the test module at its end, where the file has one inline.
pub fn without_tests(code: &str) -> &str {
    let mut from = 0;
    while let Some(at) = code[from..].find("#[cfg(test)]").map(|at| at + from) {
        let after = code[at..].trim_start_matches("#[cfg(test)]").trim_start();
        let header = after.lines().next().unwrap_or_default();
        if (header.starts_with("mod ") || header.starts_with("pub mod ")) && header.ends_with('{') {
            return &code[..at];
        }
        from = at + 1;
    }
    code
}

/// How many bytes from the start of `rest` are a comment or a literal; 0 if code starts here.
fn blank_length(rest: &str, after_word: bool) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    if rest.starts_with('"') {
        return string(rest);
    }
    if rest.starts_with('\'') {
        return character(rest);
    }
    if !after_word && let Some(length) = raw_string(rest) {
        return length;
    }
    0
}

/// Block comments nest in Rust.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let here = &rest[at..];
        if here.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn string(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// `'x'` and `'\n'` are literals; `'a` in `&'a str` is a lifetime, hence code.
fn character(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            chars.next();
            chars.find(|(_, c)| *c == '\'').map_or(rest.len(), |(at, _)| at + 1)
        }
        Some((_, c)) if c != '\'' && chars.next().is_some_and(|(_, c)| c == '\'') => 2 + c.len_utf8(),
        _ => 0,
    }
}

/// `r"…"`, `r#"…"#`, and the same after `b` or `c`.
fn raw_string(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix(['b', 'c']).unwrap_or(rest).strip_prefix('r')?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let inside = body[hashes..].strip_prefix('"')?;
    let start = rest.len() - inside.len();
    let end = format!("\"{}", "#".repeat(hashes));
    Some(inside.find(&end).map_or(rest.len(), |at| start + at + end.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_code_stays_in_its_column() {
        let blanked = [
            ("a // b\nc", "a ~~~~\nc"),
            ("a /* b /* c */ d */ e", "a ~~~~~~~~~~~~~~~~~ e"),
            (r#"f("x \" y", z)"#, "f(~~~~~~~~, z)"),
            ("s = r#\"dbg!(\"a\")\"#;", "s = ~~~~~~~~~~~~~~;"),
            (r"q = '\''; l: &'a str;", "q = ~~~~; l: &'a str;"),
            ("q = '\"'; x", "q = ~~~; x"),
            ("// für\nx", "~~~~~~\nx"),
            ("b\"x\" br\"y\" for", "b~~~ ~~~~~ for"),
        ];
        for (text, expected) in blanked {
            assert_eq!(code_only(text), expected.replace('~', " "), "{text}");
        }
    }

    #[test]
    fn an_inline_test_module_is_cut_and_a_test_helper_is_not() {
        assert_eq!(without_tests("fn a() {}\n#[cfg(test)]\nmod tests {\n}\n"), "fn a() {}\n");
        let helper = "#[cfg(test)]\nfn helper() {}\nfn a() {}\n";
        assert_eq!(without_tests(helper), helper);
        let elsewhere = "#[cfg(test)]\nmod tests;\nfn a() {}\n";
        assert_eq!(without_tests(elsewhere), elsewhere);
    }
}
