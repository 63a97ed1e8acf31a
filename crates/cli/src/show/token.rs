//! Join tokens, without their secrets.

use coda_protocol::cluster::{TokenDescription, TokenState};
use comfy_table::Cell;
use serde_json::{Value, json};

use crate::args::Format;
use crate::output::{Grid, Screen, document, good, span};

pub fn list(tokens: &[TokenDescription], screen: &Screen) -> String {
    if screen.format == Format::Json {
        return document(&json!({ "tokens": tokens.iter().map(token_json).collect::<Vec<_>>() }));
    }
    let mut grid = Grid::new(screen, ["TOKEN", "CREATED", "STATE"]);
    for token in tokens {
        grid.row([
            Cell::new(token.token),
            Cell::new(format!("{} ago", screen.age(token.created))),
            match token.state {
                TokenState::Open => good(format!("open, {} left", span(token.expires.0.saturating_sub(screen.now.0)))),
                TokenState::Expired => Cell::new(format!("expired {} ago", screen.age(token.expires))),
                TokenState::Redeemed { node, at } => Cell::new(format!("used by node {node} {} ago", screen.age(at))),
            },
        ]);
    }
    grid.render()
}

fn token_json(token: &TokenDescription) -> Value {
    let (state, node, at) = match token.state {
        TokenState::Open => ("open", None, None),
        TokenState::Expired => ("expired", None, None),
        TokenState::Redeemed { node, at } => ("used", Some(node.0), Some(at.0)),
    };
    json!({
        "token": token.token.to_string(),
        "created_ms": token.created.0,
        "expires_ms": token.expires.0,
        "state": state,
        "used_by": node,
        "used_ms": at,
    })
}
