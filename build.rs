//! Has cargo look at `migrations/`, which `sqlx::migrate!` compiles into the program: a new file there changes no source.

fn main() {
    println!("cargo::rerun-if-changed=migrations");
}
