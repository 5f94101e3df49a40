//! `edge-node`: runs one node of a PoP.

use std::path::PathBuf;

use clap::Parser;

/// A write passes through a dozen threads, and glibc's allocator took a quarter of a loaded node's CPU time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Open files beside connections: the log, the state, artifacts, sockets.
const OTHER_FILES: u64 = 512;

/// One node of a Rockpool PoP.
///
/// Settings come from the commented defaults (see --print-config), then your file, then the environment:
/// EDGE_NODE__CLIENTS__LISTEN=0.0.0.0:7443 sets clients.listen.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Your settings, TOML; only what differs from the defaults.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Print the commented default settings and end.
    #[arg(long)]
    print_config: bool,
}

#[expect(clippy::print_stdout, reason = "--print-config is for people")]
fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.print_config {
        print!("{}", edge_node::config::DEFAULTS);
        return Ok(());
    }
    let config = edge_node::config::Config::load(arguments.config.as_deref())?;
    service::telemetry::init(&config.log)?;
    #[cfg(target_os = "linux")]
    service::resources::small_pages();
    service::resources::open_files(config.http.connections_max as u64 + OTHER_FILES);
    // FAILPOINTS of the environment, for as long as the node runs.
    #[cfg(feature = "planted")]
    let _planted = fail::FailScenario::setup();
    let threads = config.node.io_threads();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    runtime.block_on(async {
        let (shutdown, hangups) = (service::shutdown::on_signals()?, service::shutdown::hangups()?);
        let settings = edge_node::reload::Settings::read(arguments.config, hangups)?;
        edge_node::node::run(settings, shutdown).await
    })
}
