//! Relative links in Markdown lead somewhere. Links to the web are not followed: tests do not depend on it.

use std::path::{Component, Path};

use crate::{File, Problem};

/// Every relative link of `file` must satisfy `exists`, which is given a path relative to the checkout.
pub fn resolve(file: &File, exists: impl Fn(&str) -> bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (line, target) in targets(&file.text) {
        let place = format!("{}:{line}", file.path);
        match from_root(&file.path, &target) {
            None => problems.push(Problem::new(
                place,
                format!("the link to `{target}` leaves the checkout"),
                "a clone has only the checkout: move what it needs into docs/ or name it without a link",
            )),
            Some(path) if !exists(&path) => problems.push(Problem::new(
                place,
                format!("the link to `{target}` leads to `{path}`, which does not exist"),
                "correct the path (it is relative to this file), or remove the link",
            )),
            Some(_) => {}
        }
    }
    problems
}

/// Line numbers and targets of relative links, without fragment; fenced and inline code is skipped.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fence: Option<&str> = None;
    for (index, line) in text.lines().enumerate() {
        let start = line.trim_start();
        if let Some(mark) = ["```", "~~~"].into_iter().find(|mark| start.starts_with(mark)) {
            fence = match fence {
                None => Some(mark),
                Some(open) if open == mark => None,
                other => other,
            };
            continue;
        }
        if fence.is_some() {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("`");
        let inline = prose.match_indices("](").map(|(at, _)| inline_target(&prose[at + 2..]));
        let defined = definition(&prose).into_iter();
        found.extend(inline.chain(defined).filter_map(relative).map(|target| (index + 1, target)));
    }
    found
}

/// The target in `target "title")…`; parentheses inside it may be balanced.
fn inline_target(rest: &str) -> &str {
    let mut depth = 0;
    let end = rest.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth < 0
    });
    rest[..end.unwrap_or(rest.len())].split_whitespace().next().unwrap_or_default()
}

/// The target in `[name]: target`.
fn definition(line: &str) -> Option<&str> {
    let (name, target) = line.trim_start().strip_prefix('[')?.split_once("]:")?;
    let is_name = !name.starts_with('^') && !name.contains([']', '[']);
    if is_name { target.split_whitespace().next() } else { None }
}

fn relative(target: &str) -> Option<String> {
    let target = target.trim_start_matches('<').trim_end_matches('>');
    let has_scheme =
        target.split_once(':').is_some_and(|(scheme, _)| scheme.chars().all(|c| c.is_ascii_alphanumeric()));
    let path = target.split(['#', '?']).next().unwrap_or_default();
    if has_scheme || target.starts_with("//") || path.is_empty() { None } else { Some(path.replace("%20", " ")) }
}

/// `target`, seen from the file at `path`, as a path from the root of the checkout; nothing if it climbs out.
fn from_root(path: &str, target: &str) -> Option<String> {
    let folder = if target.starts_with('/') { Path::new("") } else { Path::new(path).parent()? };
    let mut parts: Vec<String> = Vec::new();
    for part in folder.join(target.trim_start_matches('/')).components() {
        match part {
            Component::ParentDir => drop(parts.pop()?),
            Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> Vec<String> {
        let file = File { path: "docs/guide/start.md".to_owned(), text: text.to_owned() };
        let exists = |path: &str| ["README.md", "docs/api.md", "docs/guide", "docs/guide/a (1).md"].contains(&path);
        resolve(&file, exists).into_iter().map(|problem| problem.wrong).collect()
    }

    #[test]
    fn links_that_lead_somewhere_or_to_the_web_are_fine() {
        assert!(
            wrong("[a](../api.md#part) ![b](/README.md \"title\") [c](https://example.org/x) [d](#here)").is_empty()
        );
        assert!(
            wrong("[a](.) [b](<../api.md>) [c](mailto:a@example.org) [d](a%20(1).md)\n\n[e]: ../../README.md")
                .is_empty()
        );
    }

    #[test]
    fn links_in_code_are_not_links() {
        assert!(wrong("`[a](gone.md)`\n```\n[b](gone.md)\n```\n`a` and `b](gone.md)`").is_empty());
    }

    #[test]
    fn a_link_to_nothing_is_found_and_so_is_one_that_climbs_out() {
        assert_eq!(
            wrong("see [a](gone.md)"),
            ["the link to `gone.md` leads to `docs/guide/gone.md`, which does not exist"]
        );
        assert_eq!(
            wrong("[a]: gone.md"),
            ["the link to `gone.md` leads to `docs/guide/gone.md`, which does not exist"]
        );
        assert_eq!(wrong("[a](../../../x.md)"), ["the link to `../../../x.md` leaves the checkout"]);
    }
}
