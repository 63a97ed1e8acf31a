//! Every command about a node in every state of the node: what it answers, and what becomes of the node.
//!
//! A cell is `answer>state`. Answers: `done`, or the refusals `none` (no such node), `gone` (removed),
//! `wiped`, `used` (not drained), `full` (not empty), `state` (wrong state), `last`, `token` (used by another), `old`, `older` (start).
//! States: `-` unknown, `J`oining, `A`ctive, `D`raining, `R`emoved.

use coda_engine::cluster::command::ClusterCommand as C;
use coda_engine::command::Outcome;
use coda_protocol::cluster::{NodeState, Registration};
use coda_protocol::ids::NodeId;
use coda_protocol::reject::Reject;
use coda_protocol::reply::Reply;

use crate::world::{World, digest, machine, token};

const NODE: NodeId = NodeId(2);

fn answer(outcome: &Outcome) -> &'static str {
    match outcome {
        Ok(Reply::Done) => "done",
        Err(Reject::NoSuchNode { node: 2 }) => "none",
        Err(Reject::NodeRemoved { node: 2 }) => "gone",
        Err(Reject::WipedDisk { node: 2 }) => "wiped",
        Err(Reject::NotDrained { node: 2 }) => "used",
        Err(Reject::NotEmpty { node: 2, .. }) => "full",
        Err(Reject::WrongNodeState { node: 2, .. }) => "state",
        Err(Reject::LastNode { node: 2 }) => "last",
        Err(Reject::TokenUsed { node: 2 }) => "token",
        Err(Reject::TooOld { .. }) => "old",
        Err(Reject::OldIncarnation { node: 2, incarnation: 0, known: 1 }) => "older",
        other => panic!("{other:?}"),
    }
}

/// Node 2 in a state: it came with token 1, and token 2 is free. Everybody understands commands of version 2.
fn world(state: &str) -> World {
    let mut w = World::new();
    w.register(1, Registration { commands_version: 2, ..machine(1) }).unwrap();
    let id = w.token();
    assert_eq!(w.token(), 2);
    if state != "unknown" {
        assert_eq!(w.try_join(id, Registration { commands_version: 2, ..machine(2) }), Ok(NODE));
    }
    match state {
        "unknown" | "joining" => {}
        "active" => w.activate(NODE),
        "placed" => {
            w.activate(NODE);
            w.place(1, &[1, 2], Some(1)).unwrap();
        }
        "alone" => {
            w.activate(NODE);
            w.drain(1);
        }
        "draining" => {
            w.activate(NODE);
            w.drain(2);
        }
        "leaving" => {
            w.activate(NODE);
            w.place(1, &[1, 2], Some(1)).unwrap();
            w.place(1, &[1], Some(1)).unwrap();
            w.drain(2);
        }
        "removed" => w.done(C::Remove { node: NODE }),
        _ => unreachable!("{state}"),
    }
    w
}

const STATES: [&str; 8] = ["unknown", "joining", "active", "placed", "alone", "draining", "leaving", "removed"];

#[test]
fn every_command_in_every_state_of_a_node() {
    let two = || Registration { commands_version: 2, ..machine(2) };
    let register = |registration| C::Register { node: NODE, registration };
    let join = |id, node, disk| C::Join {
        token: token(id),
        digest: digest(id),
        node: NodeId(node),
        registration: Registration { commands_version: 2, ..machine(disk) },
    };
    let rows = [
        ("activate", C::Activate { node: NODE }),
        ("drain", C::Drain { node: NODE }),
        ("undrain", C::Undrain { node: NODE }),
        ("remove", C::Remove { node: NODE }),
        ("register", register(two())),
        ("moved", register(Registration { client_addr: "new:1".into(), ..two() })),
        ("wiped", register(Registration { storage: machine(9).storage, ..two() })),
        ("old start", register(Registration { incarnation: 0, ..two() })),
        ("old binary", register(machine(2))),
        ("join again", join(1, 2, 2)),
        ("join other", join(1, 9, 9)),
        ("join taken", join(2, 2, 9)),
    ];
    let line = |name: &str, cells: &[String]| {
        let cells: String = cells.iter().map(|cell| format!(" {cell:<9}")).collect();
        format!("{name:<11}{cells}").trim_end().to_owned()
    };
    let cell = |state: &&str, command: &C| {
        let mut w = world(state);
        let outcome = w.command(command.clone());
        let after = match w.state(2) {
            None => '-',
            Some(NodeState::Joining) => 'J',
            Some(NodeState::Active) => 'A',
            Some(NodeState::Draining) => 'D',
            Some(NodeState::Removed) => 'R',
        };
        format!("{}>{after}", answer(&outcome))
    };
    let mut lines = vec![line("", &STATES.map(String::from))];
    for (name, command) in rows {
        lines.push(line(name, &STATES.iter().map(|state| cell(state, &command)).collect::<Vec<_>>()));
    }
    let expected = "
            unknown   joining   active    placed    alone     draining  leaving   removed
activate    none>-    done>A    done>A    done>A    done>A    done>D    done>D    gone>R
drain       none>-    state>J   done>D    done>D    last>A    done>D    done>D    gone>R
undrain     none>-    state>J   done>A    done>A    done>A    done>A    done>A    gone>R
remove      none>-    done>R    used>A    used>A    used>A    done>R    full>D    done>R
register    none>-    done>J    done>A    done>A    done>A    done>D    done>D    gone>R
moved       none>-    done>J    done>A    done>A    done>A    done>D    done>D    gone>R
wiped       none>-    wiped>J   wiped>A   wiped>A   wiped>A   wiped>D   wiped>D   gone>R
old start   none>-    older>J   older>A   older>A   older>A   older>D   older>D   gone>R
old binary  none>-    old>J     old>A     old>A     old>A     old>D     old>D     gone>R
join again  done>J    done>J    done>A    done>A    done>A    done>D    done>D    gone>R
join other  done>-    token>J   token>A   token>A   token>A   token>D   token>D   token>R
join taken  done>J    wiped>J   wiped>A   wiped>A   wiped>A   wiped>D   wiped>D   gone>R
";
    assert_eq!(format!("\n{}\n", lines.join("\n")), expected, "\n");
}
