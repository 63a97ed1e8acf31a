//! `coda-admin cluster token`: what lets one new node in, once.

use std::time::Duration;

use clap::{Args, Subcommand};
use coda_client::Admin;
use coda_protocol::ids::{Millis, TokenId};
use coda_protocol::join::JoinToken;
use serde_json::json;

use crate::args::{Format, Global, parse_duration};
use crate::cluster::Cluster;
use crate::entry::Ended;
use crate::errors::Exit;
use crate::output::{self, Screen, span};
use crate::show;

#[derive(Subcommand, Debug)]
pub enum TokenCommand {
    Create(CreateArgs),
    /// List the tokens that are known: open, used and expired ones
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  coda-admin cluster token list
  coda-admin cluster token list -o json | jq '.tokens[] | select(.state == \"open\")'

A token's secret is shown once, when it is made: the cluster does not know it."
    )]
    List,
    Revoke(RevokeArgs),
}

/// Make a token, which lets one node in, once
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coda-admin cluster token create
  coda-admin cluster token create --ttl 10m > token
  coda-admin cluster token create | ssh node-4 'cat > token'

Whoever has the token, and a certificate of the cluster, can add a node: pass it on as you would a password. The token
alone goes to standard output. The cluster keeps only a digest of it.")]
pub struct CreateArgs {
    /// For how long it may be used, e.g. 10m, 2d [default: the cluster's setting join_token.ttl_ms, which is 1h]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    ttl: Option<Duration>,
}

/// Let nobody in any more with a token that is not used yet
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  coda-admin cluster token revoke 0192f0c1-5f3c-7c3e-9d52-0a6f6e1f7a01")]
pub struct RevokeArgs {
    /// Its id, as `token list` shows it, or the token itself
    #[arg(value_name = "ID", value_parser = parse_id)]
    id: TokenId,
}

fn parse_id(text: &str) -> Result<TokenId, String> {
    let whole = text.parse::<JoinToken>().map(|token| token.id);
    whole.or_else(|_| text.parse()).map_err(|_| "write an id that `coda-admin cluster token list` shows".to_owned())
}

pub async fn token(command: TokenCommand, global: &Global) -> Ended {
    Cluster::during(global, async |cluster| ask(command, &cluster.admin(), global).await).await
}

async fn ask(command: TokenCommand, admin: &Admin, global: &Global) -> Ended {
    match command {
        TokenCommand::Create(CreateArgs { ttl }) => {
            let token = JoinToken::random();
            let ttl = ttl.map(|ttl| Millis(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)));
            let expires = admin.create_token(&token, ttl).await?;
            match global.output {
                Format::Json => output::print(&output::document(&json!({
                    "token": token.to_string(),
                    "id": token.id.to_string(),
                    "expires_ms": expires.0,
                })))?,
                Format::Table => {
                    output::print(&format!("{token}\n"))?;
                    let left = span(expires.0.saturating_sub(Screen::new(global).now.0));
                    output::tip(&format!(
                        "It lets one node in, within {left}: `coda-admin cluster join --help` tells how."
                    ));
                }
            }
        }
        TokenCommand::List => {
            let tokens = admin.tokens().await?;
            if tokens.is_empty() {
                output::tip("no token is known: `coda-admin cluster token create` makes one");
            }
            output::print(&show::token::list(&tokens, &Screen::new(global)))?;
        }
        TokenCommand::Revoke(RevokeArgs { id }) => {
            admin.revoke_token(id).await?;
            match global.output {
                Format::Json => {
                    output::print(&output::document(&json!({ "token": id.to_string(), "state": "revoked" })))?;
                }
                Format::Table => output::tip(&format!("nobody can join with token {id} any more")),
            }
        }
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_revoked_by_its_id_or_by_itself() {
        let token = JoinToken::random();
        assert_eq!(parse_id(&token.id.to_string()), Ok(token.id));
        assert_eq!(parse_id(&token.to_string()), Ok(token.id));
        let error = parse_id(&token.to_string()[..80]).unwrap_err();
        assert!(!error.contains("coda-join"), "{error}");
    }
}
