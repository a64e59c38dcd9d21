//! The operator's command line (`scoreline::program`).

fn main() -> std::process::ExitCode {
    scoreline::program::main()
}
