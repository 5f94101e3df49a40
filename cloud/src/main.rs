//! `cloud`: runs the control plane.

use std::path::PathBuf;

use clap::Parser;

/// Rockpool's control plane: takes in events, publishes bundles, serves the control API.
///
/// Settings come from the commented defaults (see --print-config), then your file, then the environment:
/// CLOUD__API__LISTEN=127.0.0.1:7800 sets api.listen.
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
        print!("{}", cloud::config::DEFAULTS);
        return Ok(());
    }
    let config = cloud::config::Config::load(arguments.config.as_deref())?;
    service::telemetry::init(&config.log)?;
    let token = std::env::var(cloud::config::TOKEN_VARIABLE).ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (shutdown, hangups) = (service::shutdown::on_signals()?, service::shutdown::hangups()?);
        let settings = cloud::reload::Settings::read(arguments.config, hangups)?;
        cloud::server::run(settings, token, shutdown).await
    })
}
