//! The checks checked: each must find the small mistake that it is there for, and let pass what is
//! right, or the tests over the tree would prove nothing.

use crate::layers::Layers;
use crate::rules::{self, File};
use crate::source::{code_of, items, without_tests};

const LAYERS: &str = "# words\nL0 words: error types\nL1 seams: seam\nL2 backends, apart: rocks memory\nL3 top: conformance\n";

#[track_caller]
fn finds(rule: impl Fn(&File) -> Vec<String>, path: &str, text: &str) {
    let found = rule(&File::new(path, text));
    assert_eq!(found.len(), 1, "in {text:?}: {found:?}");
    assert!(found[0].starts_with(path), "{found:?}");
}

#[track_caller]
fn passes(rule: impl Fn(&File) -> Vec<String>, path: &str, text: &str) {
    let found = rule(&File::new(path, text));
    assert!(found.is_empty(), "in {text:?}: {found:?}");
}

#[test]
fn comments_and_literals_are_no_code() {
    let cases = [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ d */ e", "a                   e"),
        (r#"f("x\"y") + 1"#, r#"f("    ") + 1"#),
        ("f('{', 'a: &'static str)", "f(' ', 'a: &'static str)"),
        (r"f('\'') 'b", r"f('  ') 'b"),
        ("\"é\" x", "\"  \" x"),
    ];
    for (text, code) in cases {
        assert_eq!(code_of(text), code, "{text}");
    }
    let raw = code_of("r#\"a \" { b\"# { }");
    assert!(!raw.contains(['a', 'b']) && raw.ends_with(" { }"), "{raw}");
}

#[test]
fn tests_are_cut_out_and_the_rest_stays() {
    let code =
        "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { x } }\nfn c() {}\n#[cfg(test)]\nmod d;\n";
    let product = without_tests(code);
    let names: Vec<String> = items(&product, "fn").into_iter().map(|i| i.name).collect();
    assert_eq!(names, ["a", "c"]);
    assert_eq!(product.len(), code.len());
}

#[test]
fn items_end_where_they_end() {
    let code = "fn a(x: [u8; 2]) -> [u8; 3] { if x { y } }\nfn b<T: Into<u8>, 'a>();";
    let items = items(code, "fn");
    assert_eq!(
        &code[items[0].span.clone()],
        "fn a(x: [u8; 2]) -> [u8; 3] { if x { y } }"
    );
    assert_eq!(&code[items[1].span.clone()], "fn b<T: Into<u8>, 'a>();");
    assert_eq!(items[1].generics, "T: Into<u8>, 'a");
}

#[test]
fn a_use_of_a_lower_layer_is_found() {
    let layers = Layers::parse(LAYERS);
    let check = |file: &File| layers.check(file);
    finds(check, "src/error.rs", "use crate::seam::S;");
    finds(check, "src/seam.rs", "use crate::{types::T, rocks::R};");
    finds(check, "src/seam.rs", "fn f() { crate::memory::new() }");
    finds(check, "src/rocks/log.rs", "use crate::memory::M;");
    finds(check, "src/rocks/mod.rs", "use super::memory::M;");
    finds(check, "src/rocks/log.rs", "use super::super::memory::M;");
    finds(check, "src/rocks/log.rs", "use crate::RegionId;");
    finds(check, "src/stranger.rs", "");
}

#[test]
fn a_use_of_the_own_layer_or_a_higher_one_passes() {
    let layers = Layers::parse(LAYERS);
    let check = |file: &File| layers.check(file);
    passes(
        check,
        "src/error.rs",
        "use crate::types::{A, B}; pub(crate) fn f() {}",
    );
    passes(
        check,
        "src/rocks/log.rs",
        "use crate::{seam::{S, T}, rocks::x}; use super::y;",
    );
    passes(check, "src/conformance/mod.rs", "use crate::RegionId;");
    passes(
        check,
        "src/error.rs",
        "// crate::rocks\nconst A: &str = \"crate::rocks\";",
    );
    passes(
        check,
        "src/error.rs",
        "#[cfg(test)]\nmod tests { use crate::rocks::R; }",
    );
    passes(check, "src/error/tests.rs", "use crate::rocks::R;");
    passes(check, "src/lib.rs", "use crate::rocks::R;");
}

#[test]
fn long_files_and_functions_are_found() {
    let body = |lines: usize| format!("fn f() {{\n{}}}\n", "    x;\n".repeat(lines - 2));
    finds(rules::sizes, "src/a.rs", &body(70));
    passes(rules::sizes, "src/a.rs", &body(69));
    finds(rules::sizes, "tests/a.rs", &"\n".repeat(600));
    passes(rules::sizes, "tests/a.rs", &"\n".repeat(599));
}

#[test]
fn a_second_type_parameter_is_found() {
    finds(
        rules::type_parameters,
        "src/a.rs",
        "fn f<A, B>(a: A, b: B) {}",
    );
    finds(rules::type_parameters, "src/a.rs", "struct S<A, B>(A, B);");
    let one = "fn f<'a, T: Fn(&u8, &u8) -> u8, const N: usize>(t: &'a T) {}";
    passes(rules::type_parameters, "src/a.rs", one);
}

#[test]
fn unfinished_code_is_found() {
    for bad in [
        "macro_rules! m {}",
        "fn f() { todo!() }",
        "fn f() { dbg!(1); }",
        "fn get_x() {}",
    ] {
        finds(rules::unfinished_or_unreadable, "src/a.rs", bad);
    }
    let good = "// todo!\nfn f() { get_x(); todo(); }";
    passes(rules::unfinished_or_unreadable, "src/a.rs", good);
}

#[test]
fn a_panic_without_a_proof_is_found() {
    finds(rules::panics, "src/a.rs", "fn f() { x.unwrap() }");
    finds(
        rules::panics,
        "src/a.rs",
        "fn f() { x.expect(\"bad luck\") }",
    );
    finds(rules::panics, "src/a.rs", "fn f() { x.expect(&message) }");
    passes(
        rules::panics,
        "src/a.rs",
        "fn f() { x.expect(\"the length was checked above\") }",
    );
    passes(
        rules::panics,
        "src/a.rs",
        "#[cfg(test)]\nmod tests { fn f() { x.unwrap() } }",
    );
    passes(
        rules::panics,
        "src/a.rs",
        "fn f() { x.unwrap_or(1) } // .unwrap()",
    );
    passes(rules::panics, "src/a/tests.rs", "fn f() { x.unwrap() }");
    passes(rules::panics, "tests/a.rs", "fn f() { x.unwrap() }");
}

#[test]
fn a_file_without_a_head_is_found() {
    finds(rules::head, "tests/a.rs", "use x;\n");
    finds(rules::head, "src/a.rs", "//! Things.\n\nuse x;\n");
    finds(rules::head, "src/a/mod.rs", "//! Things.\n\nuse x;\n");
    passes(
        rules::head,
        "src/a.rs",
        "//! Things. Uses: types.\n\nuse x;\n",
    );
    passes(rules::head, "src/a/b.rs", "//! Things.\n\nuse x;\n");
}

#[test]
fn a_waiver_without_a_reason_is_found() {
    finds(rules::waivers, "src/a.rs", "#[allow(dead_code)]\nfn f() {}");
    finds(rules::waivers, "src/a.rs", "#![allow(\n    clippy::all\n)]");
    passes(
        rules::waivers,
        "src/a.rs",
        "#[allow(dead_code, reason = \"used by the bin\")]",
    );
}

#[test]
fn files_and_threads_where_they_do_not_belong_are_found() {
    finds(rules::files_and_threads, "src/workers/a.rs", "use std::fs;");
    finds(
        rules::files_and_threads,
        "src/peer_storage/a.rs",
        "use std::thread;",
    );
    finds(
        rules::files_and_threads,
        "src/entry_cache.rs",
        "let now = Instant::now();",
    );
    passes(rules::files_and_threads, "src/fs/disk.rs", "use std::fs;");
    passes(
        rules::files_and_threads,
        "src/workers/a.rs",
        "use std::thread;",
    );
}

#[test]
fn stray_space_and_machine_paths_are_found() {
    let home = ["/ho", "me/me/x\n"].concat();
    for bad in ["a \n", "a\tb\n", "a", home.as_str()] {
        assert_eq!(rules::plain_text("x.md", bad).len(), 1, "{bad:?}");
    }
    assert!(rules::plain_text("x.md", "a\n\nb\n").is_empty());
    assert!(rules::plain_text("Makefile", "a:\n\tb\n").is_empty());
}

#[test]
fn a_make_target_that_does_not_exist_is_found() {
    let check = |text: &str| rules::unknown_targets("R", text, "demo: ## x\ntest-plain:\n");
    assert_eq!(
        check("Run `make dmo` now"),
        ["R: `make dmo` is not in the Makefile"]
    );
    assert_eq!(check("    make all").len(), 1);
    let good = "`make demo`, `make test-plain ARGS=x`\nmake demo ARGS=\"--mib 4\"\nmake sure that it is so\n";
    assert!(check(good).is_empty());
}
