//! Text that people read is compared with a file in `tests/expected`. `UPDATE_EXPECT=1` writes the files anew; read the
//! difference in git before you believe it.

use std::path::Path;

pub fn expect(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/expected").join(name);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == text,
        "{} differs; UPDATE_EXPECT=1 accepts this:\n--- expected\n{expected}\n--- got\n{text}",
        path.display()
    );
}
