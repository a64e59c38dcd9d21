//! Lists `migrations/` for `store::migrations`, so that a new file there is compiled into the program by being there.

use std::path::PathBuf;
use std::{env, fs};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=migrations");
    let folder = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("migrations");
    let mut files = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "sql"));
    files.sort();
    let mut list = String::from("&[\n");
    for path in &files {
        let name = path.file_stem().and_then(|stem| stem.to_str()).ok_or("a migration's name is UTF-8")?;
        let (version, description) = name.split_once('_').ok_or("a migration is named VERSION_DESCRIPTION.sql")?;
        let (version, description) = (version.parse::<i64>()?, description.replace('_', " "));
        list.push_str(&format!("    ({version}, {description:?}, include_str!({path:?})),\n"));
    }
    list.push(']');
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("migrations.rs"), list)?;
    Ok(())
}
