//! Applies every rule of `coda-tidy` to the checkout. A failure says where, what, and what to do.

use coda_tidy::{Checkout, File, Problem, codes, imports, links, source};

fn demand(problems: impl IntoIterator<Item = Problem>) {
    let problems: Vec<String> = problems.into_iter().map(|problem| problem.to_string()).collect();
    assert!(problems.is_empty(), "{} to mend:\n\n{}\n", problems.len(), problems.join("\n\n"));
}

fn sources(checkout: &Checkout) -> Vec<File> {
    let files = checkout.files("crates", ".rs");
    assert!(!files.is_empty(), "no Rust source found below crates/: the walk is broken");
    files
}

fn parse(file: &File) -> toml::Table {
    file.text.parse().unwrap_or_else(|why| panic!("{}: {why}", file.path))
}

#[test]
fn every_crate_imports_only_what_the_architecture_allows() {
    let checkout = Checkout::here();
    let root = parse(&checkout.file("Cargo.toml").expect("the checkout has a manifest"));
    let manifests = [checkout.files("crates", "/Cargo.toml"), checkout.files("sdk", "/Cargo.toml")];
    demand(manifests.iter().flatten().flat_map(|file| imports::check(&file.path, &parse(file), &root)));
}

#[test]
fn no_source_file_is_too_long() {
    let checkout = Checkout::here();
    demand(sources(&checkout).iter().filter(|file| file.path.contains("/src/")).filter_map(source::is_short_enough));
}

#[test]
fn nothing_unfinished_is_left_over() {
    let checkout = Checkout::here();
    let native = checkout.files("sdk", ".rs");
    demand(sources(&checkout).iter().chain(&native).flat_map(source::has_no_leftovers));
}

#[test]
fn time_enters_in_one_place() {
    let checkout = Checkout::here();
    demand(sources(&checkout).iter().flat_map(source::reads_no_clock));
}

#[test]
fn every_crate_opens_with_its_own_page() {
    let checkout = Checkout::here();
    let roots = checkout.files("crates", "/src/lib.rs");
    assert!(!roots.is_empty(), "no lib.rs found below crates/: the walk is broken");
    demand(roots.iter().filter_map(source::opens_with_module_docs));
}

#[test]
fn the_architecture_is_written_down_and_short() {
    let checkout = Checkout::here();
    let page = checkout.file("ARCHITECTURE.md");
    let missing =
        || Problem::new("ARCHITECTURE.md", "does not exist", "write down how the parts fit together, and why");
    demand(page.as_ref().map_or_else(|| Some(missing()), source::architecture_is_short_enough));
}

#[test]
fn every_relative_link_in_the_documentation_leads_somewhere() {
    let checkout = Checkout::here();
    let mut pages = checkout.files_in("", ".md");
    for folder in ["docs", "deploy", "jepsen", "bench", "examples", "sdk", "tests", "crates"] {
        pages.extend(checkout.files(folder, ".md"));
    }
    demand(pages.iter().flat_map(|page| links::resolve(page, |path| checkout.root().join(path).exists())));
}

#[test]
fn every_error_code_is_explained() {
    let checkout = Checkout::here();
    let mut files: Vec<File> = sources(&checkout).into_iter().filter(|file| file.path.contains("/src/")).collect();
    files.extend(checkout.files("sdk", ".rs"));
    files.extend(checkout.files("sdk/python/python", ".py"));
    demand(codes::are_explained(&files, &checkout.file("docs/errors.md").expect("the codes have a page")));
}
