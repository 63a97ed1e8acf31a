//! `coda help TOPIC`: what belongs to no single command.

struct Topic {
    name: &'static str,
    text: &'static str,
}

const TOPICS: &[Topic] = &[
    Topic { name: "connecting", text: CONNECTING },
    Topic { name: "input", text: INPUT },
    Topic { name: "exit-codes", text: EXIT_CODES },
];

pub fn find(name: &str) -> Option<&'static str> {
    TOPICS.iter().find(|topic| topic.name == name).map(|topic| topic.text)
}

/// For a sentence that lists them.
pub fn names() -> String {
    TOPICS.iter().map(|topic| topic.name).collect::<Vec<_>>().join(", ")
}

const CONNECTING: &str = "\
How programs find Coda. The first that says something wins, for each of address and CA:

  1. --address HOST:PORT[,HOST:PORT…] and --ca FILE
  2. CODA_ADDRESS and CODA_CA in the environment
  3. the nearest .coda/client.json from the current folder upward, which `coda dev` writes

Nodes may serve only clients that show a certificate: --cert FILE and --key FILE, or CODA_CERT and CODA_KEY.
`coda-admin cert client` makes the two.

So everything in a project where `coda dev` runs works without being told. Nodes prove who they are with a
certificate of the cluster's own CA: no other CA is trusted.

A command gives up after 10 s without a node (exit status 5); --timeout changes that.
";

const INPUT: &str = "\
How arguments of workflows and tasks are written: as JSON.

  --input '{\"project_id\": 1}'    arguments by name
  --input '[1, \"x\"]'             arguments by position
  --input @order.json            from a file
  --input -                      from standard input

Without --input there are no arguments. Results are printed as JSON, exactly as the function's codec wrote them;
of a codec other than JSON only its name and size are shown.
";

const EXIT_CODES: &str = "\
What the exit status of `coda` and `coda-admin` means:

    0  done
    1  failed: the run or task failed, a worker kept ending, the node cannot go on
    2  usage: an option, an argument or the configuration is wrong; nothing was sent
    3  not found: no such run or task, or its retention time is over
    4  conflict: the id names other work; the data folder or the address is in use
    5  unavailable: no node answered, or it could not; trying again may help
   10  degraded: the cluster serves everything, but something is not as it should be (`coda-admin cluster health`)
   11  no quorum: some work is not served, because too few nodes answer (`coda-admin cluster health`)
   12  differs: copies of a group are not equal (`coda-admin cluster verify`)
  124  timeout: what was awaited has not happened within --timeout
  130  ended at once by a second SIGINT, 143 by a second SIGTERM, 129 by a second SIGHUP

Errors go to standard error as `error[CODA2011]: sentence` and `help: what to do next`; the codes are stable.
Standard output carries data and nothing else.
";
