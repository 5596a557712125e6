//! The article's own case: Dubbo providers with ZooKeeper, replaced one by one while a consumer calls without pause.
//!
//! Run: `cargo build --release --features cli,process && cargo run --release --example dubbo` (two minutes). It needs a
//! JDK and Maven, which fetches Dubbo and ZooKeeper from Maven Central; everything runs on 127.0.0.1.
//!
//! What the article does: `kill -SIGTERM $PID && while ps -p $PID; do sleep 1; done` as the preStop hook, and leaves the rest
//! to Dubbo. What goes wrong: see the table; the loop is killed with its container, and its bound is the kubelet's. What to
//! watch: the row `prestop`, where QoS `/offline` takes the provider out first, consumers have two seconds to notice, and
//! SIGTERM comes after that.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

/// JVMs on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(120);
const GRACE: Duration = Duration::from_secs(30);
/// A new provider is called by everybody after that.
const SETTLE: Duration = Duration::from_secs(3);
/// What the article has as a hook.
const LOOP: &str = "kill -TERM $0 && while kill -0 $0 2>/dev/null; do sleep 1; done";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Recipe {
    /// The plain one: what is left when a hook or a grace period is too short.
    Kill,
    /// The article's, on Dubbo's own shutdown hook.
    Article,
    Prestop,
}

impl Recipe {
    const ALL: [Self; 3] = [Self::Kill, Self::Article, Self::Prestop];

    const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Article => "article",
            Self::Prestop => "prestop",
        }
    }

    const fn summary(self) -> &'static str {
        match self {
            Self::Kill => "SIGKILL",
            Self::Article => "kill -SIGTERM and a loop: Dubbo's own shutdown",
            Self::Prestop => "prestop run: QoS /offline, 2 s of lame duck, SIGTERM",
        }
    }
}

#[derive(Parser)]
struct Cli {
    /// Providers that are replaced, per recipe
    #[arg(long, default_value_t = 2)]
    stops: u32,
    /// Only this recipe: kill, article, prestop
    #[arg(long)]
    only: Option<String>,
}

type Problem = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli).await {
        Ok(lost) => ExitCode::from(u8::from(lost)),
        Err(problem) => {
            let _ = writeln!(io::stderr(), "error: {problem}");
            ExitCode::from(2)
        }
    }
}

/// Whether `prestop` has lost a call.
async fn run(cli: &Cli) -> Result<bool, Problem> {
    for program in ["mvn", "javac"] {
        if !is_here(program) {
            if std::env::var_os("CI").is_some() {
                return Err(format!("there is no {program} in CI").into());
            }
            say(&format!("SKIPPED: there is no {program} here\n"));
            return Ok(false);
        }
    }
    let scratch = Scratch::new()?;
    let java = Java::build(&scratch).await?;
    let mut table = format!(
        "\n{:<9} {:>7} {:>6} {:>6}   {:<22} lost to\n",
        "recipe", "calls", "lost", "stops", "seconds per stop"
    );
    let mut lost_by_prestop = false;
    for recipe in Recipe::ALL {
        if cli
            .only
            .as_deref()
            .is_some_and(|only| only != recipe.name())
        {
            continue;
        }
        say(&format!("\n{}: {}\n", recipe.name(), recipe.summary()));
        let row = rolling_update(recipe, cli.stops, &java, &scratch).await?;
        let stops: Vec<_> = row
            .took
            .iter()
            .map(|t| format!("{:.1}", t.as_secs_f64()))
            .collect();
        writeln!(
            table,
            "{:<9} {:>7} {:>6} {:>6}   {:<22} {}",
            recipe.name(),
            row.calls,
            row.lost,
            row.took.len(),
            stops.join(", "),
            row.why
        )?;
        lost_by_prestop |= recipe == Recipe::Prestop && row.lost > 0;
    }
    say(&table);
    Ok(lost_by_prestop)
}

struct Row {
    calls: u64,
    lost: u64,
    why: String,
    took: Vec<Duration>,
}

async fn rolling_update(
    recipe: Recipe,
    stops: u32,
    java: &Java,
    scratch: &Scratch,
) -> Result<Row, Problem> {
    let zookeeper_port = free_port()?;
    let data = scratch.0.join(format!("zookeeper-{}", recipe.name()));
    let _zookeeper = java.zookeeper(zookeeper_port, &data).await?;
    let mut providers = Vec::new();
    for _ in 0..2 {
        providers.push(java.provider(recipe, zookeeper_port).await?);
    }
    let mut consumer = java.start("Consumer", &[zookeeper_port.to_string()])?;
    consumer.says("consumer up").await?;
    sleep(SETTLE).await;

    let mut took = Vec::new();
    for number in 0..stops {
        providers.push(java.provider(recipe, zookeeper_port).await?);
        sleep(SETTLE).await;
        let begun = Instant::now();
        let ending = stop(providers.remove(0), recipe).await?;
        took.push(begun.elapsed());
        let seconds = begun.elapsed().as_secs_f64();
        say(&format!(
            "  provider {} stopped in {seconds:.1} s with {ending}\n",
            number + 1
        ));
    }
    sleep(SETTLE).await;
    let mut stdin = consumer
        .child
        .stdin
        .take()
        .ok_or("the consumer has no stdin")?;
    stdin.write_all(b"\n").await?;
    let result = consumer.says("calls ").await?;
    let words: Vec<&str> = result.splitn(5, ' ').collect();
    let [_, calls, _, lost, why] = words[..] else {
        return Err(format!("the consumer said {result:?}").into());
    };
    say(&format!("  {result}\n"));
    Ok(Row {
        calls: calls.parse()?,
        lost: lost.parse()?,
        why: why.to_owned(),
        took,
    })
}

async fn stop(provider: Running, recipe: Recipe) -> Result<String, Problem> {
    let pid = provider
        .child
        .id()
        .ok_or("the provider has ended by itself")?;
    let mut child = provider.child;
    // Waiting for the child would close it, and a provider ends with it.
    let _held = child.stdin.take();
    // Waited for from the beginning: a loop that asks after it must not find what is left of it.
    let waiting = tokio::spawn(async move { child.wait().await });
    let signal = |signal| kill_process(Pid::from_raw(pid.cast_signed()).expect("a pid"), signal);
    match recipe {
        Recipe::Kill => signal(Signal::KILL)?,
        Recipe::Article => {
            let mut hook = Command::new("sh");
            hook.args(["-c", LOOP, &pid.to_string()]).kill_on_drop(true);
            // Its bound is the kubelet's.
            let _ = timeout(GRACE, hook.status()).await;
        }
        Recipe::Prestop => signal(Signal::TERM)?,
    }
    let status = timeout(GRACE, waiting).await;
    Ok(status
        .map_err(|_| "the provider did not end in the grace period")???
        .to_string())
}

/// A JVM (or what wraps it), and its lines; killed when it is dropped. What was wrapped ends with its standard input.
struct Running {
    name: String,
    child: Child,
    out: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn spawn(name: &str, mut command: Command) -> Result<Self, Problem> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .env_remove("KUBERNETES_SERVICE_HOST")
            .env(
                "TERMINATION_GRACE_PERIOD_SECONDS",
                GRACE.as_secs().to_string(),
            )
            .spawn()
            .map_err(|error| format!("starting {name}: {error}"))?;
        let out = child.stdout.take().ok_or("no stdout")?;
        Ok(Self {
            name: name.to_owned(),
            child,
            out: BufReader::new(out).lines(),
        })
    }

    /// Waits for a line that begins like this.
    async fn says(&mut self, what: &str) -> Result<String, Problem> {
        let line = async {
            while let Some(line) = self.out.next_line().await? {
                if line.starts_with(what) {
                    return Ok(line);
                }
            }
            Err(io::Error::from(io::ErrorKind::UnexpectedEof))
        };
        let said = timeout(START_LIMIT, line).await;
        let about = |problem: &dyn std::fmt::Display| {
            format!("{}: waiting for {what:?}: {problem}", self.name)
        };
        match said {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(error)) => Err(about(&error).into()),
            Err(late) => Err(about(&late).into()),
        }
    }
}

/// The example's classes, and the jars they need.
struct Java {
    classpath: String,
}

impl Java {
    async fn build(scratch: &Scratch) -> Result<Self, Problem> {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/dubbo");
        let (jars, classes) = (scratch.0.join("jars"), scratch.0.join("classes"));
        say("fetching Dubbo and ZooKeeper by Maven, if they are not here yet\n");
        let mut maven = Command::new("mvn");
        maven.args(["-q", "-B", "-f"]).arg(sources.join("pom.xml"));
        maven.arg("org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies");
        maven.arg(format!("-DoutputDirectory={}", jars.display()));
        done("mvn", &mut maven).await?;
        let mut javac = Command::new("javac");
        javac.arg("-cp").arg(jars.join("*")).arg("-d").arg(&classes);
        for source in ["Greeter.java", "Provider.java", "Consumer.java"] {
            javac.arg(sources.join(source));
        }
        done("javac", &mut javac).await?;
        Ok(Self {
            classpath: format!("{}:{}/*", classes.display(), jars.display()),
        })
    }

    fn command(&self, class: &str, arguments: &[String]) -> Vec<String> {
        let options = [
            "java",
            "-Xmx128m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=off",
            "-Djava.net.preferIPv4Stack=true",
            "-cp",
            &self.classpath,
            class,
        ];
        let options = options.into_iter().map(str::to_owned);
        options.chain(arguments.iter().cloned()).collect()
    }

    fn start(&self, class: &str, arguments: &[String]) -> Result<Running, Problem> {
        let argv = self.command(class, arguments);
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]);
        Running::spawn(class, command)
    }

    async fn zookeeper(&self, port: u16, data: &Path) -> Result<Running, Problem> {
        std::fs::create_dir_all(data)?;
        let config = data.join("zoo.cfg");
        let text = format!(
            "tickTime=1000\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n",
            data.display()
        );
        std::fs::write(&config, text)?;
        let class = "org.apache.zookeeper.server.ZooKeeperServerMain";
        let running = self.start(class, &[config.display().to_string()])?;
        let listens = async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(START_LIMIT, listens)
            .await
            .map_err(|_| "ZooKeeper does not listen")?;
        Ok(running)
    }

    async fn provider(&self, recipe: Recipe, zookeeper: u16) -> Result<Running, Problem> {
        let qos = free_port()?;
        let arguments = [zookeeper, free_port()?, qos].map(|port| port.to_string());
        let mut provider = if recipe == Recipe::Prestop {
            let mut command = Command::new(prestop()?);
            command.args(["run", "--plan", "java", "--lame-duck", "2"]);
            command.args(["--ready", "log:provider up", "--ready-within", "100"]);
            command
                .arg("--leave")
                .arg(format!("get:http://127.0.0.1:{qos}/offline"));
            command.arg("--").args(self.command("Provider", &arguments));
            Running::spawn("prestop run", command)?
        } else {
            self.start("Provider", &arguments)?
        };
        provider.says("provider up").await?;
        Ok(provider)
    }
}

/// The binary beside this example.
fn prestop() -> Result<PathBuf, Problem> {
    let own = std::env::current_exe()?;
    let profile = own
        .ancestors()
        .nth(2)
        .ok_or("this program lies in no target directory")?;
    let binary = profile.join("prestop");
    if binary.exists() {
        return Ok(binary);
    }
    let what = binary.display();
    Err(format!(
        "there is no {what}: `cargo build --features cli,process` with the same profile makes it"
    )
    .into())
}

async fn done(name: &str, command: &mut Command) -> Result<(), Problem> {
    let status = command
        .status()
        .await
        .map_err(|error| format!("running {name}: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{name}: {status}").into())
    }
}

fn is_here(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).exists())
}

/// A port that was free a moment ago.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A directory that is gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> io::Result<Self> {
        let dir = std::env::temp_dir().join(format!("prestop-dubbo-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Prints at once. Whoever closed stdout (`| head`) has seen enough, and is no reason to panic.
fn say(text: &str) {
    let mut stdout = io::stdout();
    let _ = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
}
