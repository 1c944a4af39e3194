//! The chapters of the book as documentation tests: every Rust block in them is compiled and run. `tests/tests/book.rs` sees
//! to it that no chapter is forgotten here.

#[doc = include_str!("../../docs/src/introduction.md")]
struct Introduction;
#[doc = include_str!("../../docs/src/quick-start.md")]
struct QuickStart;
#[doc = include_str!("../../docs/src/tables.md")]
struct Tables;
#[doc = include_str!("../../docs/src/troubleshooting.md")]
struct Troubleshooting;
#[doc = include_str!("../../docs/src/method.md")]
struct Method;
#[doc = include_str!("../../docs/src/gradient.md")]
struct Gradient;
#[doc = include_str!("../../docs/src/steps.md")]
struct Steps;
#[doc = include_str!("../../docs/src/paper-and-code.md")]
struct PaperAndCode;
#[doc = include_str!("../../docs/src/extending.md")]
struct Extending;
