//! The manager's page in a real browser: who may look, what it shows as it happens, and that what is decided there comes true.

use deltabus_tests::driven::Driven;
use deltabus_tests::managed::Managed;
use deltabus_tests::{Running, World};
use serde_json::{Value, json};

const SOURCE: &str = "csv:people.csv?key=id";

/// A name that a careless page would run.
const HOSTILE: &str = "<script>document.title='owned'</script><img src=x onerror=alert(1)>";

fn people() -> String {
    format!(
        "id,name,phone,age\n1,Ann,111,31\n2,Bob,222,32\n3,{HOSTILE},333,33\n4,Dora,444,34\n5,Eve,555,35\n6,Finn,666,36\n"
    )
}

/// Nobody here is a hundred.
const RULES: &str = "CREATE TABLE people (id TEXT PRIMARY KEY NOT NULL, name TEXT, phone TEXT, age TEXT);
    CREATE TRIGGER i BEFORE INSERT ON people WHEN length(new.age) > 2 BEGIN SELECT RAISE(ABORT, 'too old'); END;
    CREATE TRIGGER u BEFORE UPDATE ON people WHEN length(new.age) > 2 BEGIN SELECT RAISE(ABORT, 'too old'); END;";

/// A source with two receivers, under a manager.
struct Shop<'a> {
    world: &'a World,
    managed: Managed<'a>,
    transmitter: Running,
    crm: Running,
    _site: Running,
}

impl<'a> Shop<'a> {
    fn open(world: &'a World) -> Shop<'a> {
        let managed = Managed::start(world, "");
        managed.token("shop", "--publish people");
        managed.token("crm", "--reverse people");
        managed.token("site", "--read people");
        world.write("people.csv", &people());
        let transmitter = world
            .start(&managed.line("shop", &format!("transmit people {SOURCE} --conflicts manual --max-delete 50%")));
        let crm = world.start(&managed.line("crm", "receive people sqlite:crm.db?busy_timeout=50 --reverse"));
        world.sql("site.db", RULES);
        let destination =
            "[[destination]]\nsource = \"people\"\nlocation = \"sqlite:site.db\"\non_error = \"dead-letter\"\n";
        world.write("site.toml", &format!("name = \"site\"\n\n{destination}"));
        let site = world.start(&managed.line("site", "receive --config site.toml"));
        let shop = Shop { world, managed, transmitter, crm, _site: site };
        world.wait_equal(SOURCE, "sqlite:crm.db");
        world.wait_equal(SOURCE, "sqlite:site.db");
        shop
    }

    /// A link to the page.
    fn link(&self) -> String {
        let link = self.world.run("page").exits(0).stdout().trim().to_owned();
        assert!(link.starts_with(&format!("{}/login#", self.managed.url())), "{link}");
        link
    }

    fn visitor(&self, name: &str) -> Driven<'a> {
        let mut browser = Driven::start(self.world, name);
        browser.look(1180, 900, "light");
        browser.open(&self.link());
        browser.wait_for("people");
        browser
    }

    /// What the audit has of an action.
    fn audit(&self, action: &str) -> Vec<Value> {
        let lines = self.world.run("audit --json").exits(0).stdout();
        let entries = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("it is JSON"));
        entries.filter(|entry| entry["action"] == action).collect()
    }

    /// An edit at the CRM meets a change of the same field at the source: nobody has won.
    fn disagree(&self) {
        self.transmitter.freeze();
        self.world.sql("crm.db", "UPDATE people SET phone = '999' WHERE id = '2'");
        self.world.wait("the edit waits", || {
            let status = self.world.run("status --json --state state-crm").stdout();
            let status: Value = serde_json::from_str(&status).unwrap_or_default();
            status["receivers"][0]["pending"] == 1
        });
        let there = self.world.read("people.csv");
        self.world.write("people.csv", &there.replace("222", "888"));
        self.transmitter.thaw();
    }
}

#[test]
fn what_happens_is_seen_and_what_is_decided_comes_true() {
    let world = World::new();
    let shop = Shop::open(&world);
    let mut browser = shop.visitor("ann");
    browser.wait_for("up to date");
    browser.wait("it is live", "document.querySelector('#live').dataset.state === 'live'");
    // From here on, nothing is loaded again.
    browser.value("globalThis.mark = 'the same page'");

    // A change at the source is seen by itself.
    world.write("people.csv", &people().replace("Ann,111", "Anna,112"));
    browser.wait("the revision is seen", "[...document.querySelectorAll('dd')].some(one => one.textContent === '2')");
    browser.wait("both receivers have it", "document.body.innerText.split('up to date').length === 3");

    // A conflict: seen, and decided without a mouse.
    shop.disagree();
    browser.wait_for("1 conflict (1 open)");
    browser.picture("overview.png");
    browser.tab_to("1 conflict (1 open)");
    browser.press("Enter");
    browser.wait_for("crm wanted");
    let text = browser.text();
    for part in ["Field phone", "\"222\"", "\"888\"", "\"999\"", "edited by crm"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    browser.picture("conflicts.png");
    browser.look(1180, 900, "dark");
    browser.picture("conflicts-dark.png");
    browser.look(390, 844, "dark");
    browser.picture("conflicts-phone.png");
    browser.look(1180, 900, "light");
    browser.tab_to("Take the edit");
    browser.press("Enter");
    browser.wait_for("the source was changed, as revision");
    browser.wait_for("No conflicts");
    world.wait("the source has it", || world.read("people.csv").contains("2,Bob,999,32"));
    world.wait_equal(SOURCE, "sqlite:site.db");
    let decided = shop.audit("resolve");
    assert_eq!((decided.len(), &decided[0]["who"]), (1, &json!("administrator")), "{decided:?}");

    // A delete of most of it: held, confirmed, and then it is everywhere.
    let kept: String = world.read("people.csv").lines().take(3).map(|line| format!("{line}\n")).collect();
    world.write("people.csv", &kept);
    browser.open(&format!("{}/", shop.managed.url()));
    browser.wait_for("A delete is held back");
    browser.picture("held.png");
    browser.tab_to("Let it go …");
    browser.press("Enter");
    browser.wait_for("Let this delete go?");
    browser.press("Escape");
    browser.wait("nothing was confirmed", "!document.querySelector('#ask').open");
    assert_eq!(shop.audit("confirm").len(), 0);
    browser.press("Enter");
    browser.tab_to("Let it go");
    browser.press("Enter");
    browser.wait_for("confirmed");
    world.wait_equal(SOURCE, "sqlite:crm.db");
    world.wait_equal(SOURCE, "sqlite:site.db");
    browser.wait("the banner is gone", "!document.body.innerText.includes('A delete is held back')");
    assert_eq!(shop.audit("confirm").len(), 1);

    // The history has all of it, and what came from elsewhere is text.
    browser.open(&format!("{}/#/source/people/history", shop.managed.url()));
    browser.wait_for("edits of crm");
    browser.wait_for("decides ");
    browser.value("document.querySelector('[data-action=set]').click()");
    browser.wait_for("<script>document.title");
    browser.picture("history.png");
    assert_eq!(browser.value("document.querySelectorAll('script').length"), 1);
    assert_ne!(browser.value("document.title"), "owned");

    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_running_receiver_is_asked_and_one_that_is_gone_is_shown_so() {
    let world = World::new();
    let shop = Shop::open(&world);
    let mut browser = shop.visitor("ann");

    // A destination that can't be written: what would change there is told, and nothing is changed.
    browser.open(&format!("{}/#/source/people/receiver/crm", shop.managed.url()));
    let lock = rusqlite::Connection::open(world.path("crm.db")).expect("it can be opened");
    lock.execute_batch("BEGIN IMMEDIATE").expect("it can be locked");
    world.write("people.csv", &people().replace("Ann,111", "Anna,112"));
    world.wait_equal(SOURCE, "sqlite:site.db");
    browser.wait_for("What would change?");
    // The first answers may be from before the change has come.
    world.wait("the plan has the change", || {
        browser.value("document.querySelector('[data-action=plan]').click()");
        browser.wait("there is an answer", "!document.querySelector('[data-action=plan]').disabled");
        browser.text().contains("To come to revision 2")
    });
    let text = browser.text();
    for part in ["~1", "\"Ann\"", "\"Anna\"", "\"111\"", "\"112\""] {
        assert!(text.contains(part), "{part}: {text}");
    }
    browser.picture("plan.png");
    world.run("diff sqlite:crm.db sqlite:site.db").exits(1);
    lock.execute_batch("ROLLBACK").expect("it can be unlocked");
    world.wait_equal(SOURCE, "sqlite:crm.db");
    browser.wait_for("up to date");
    browser.value("document.querySelector('[data-action=plan]').click()");
    browser.wait_for("Nothing would change");

    // What a destination refuses is listed, tried again, and dropped.
    world.write("people.csv", &people().replace("Ann,111,31", "Anna,112,131"));
    browser.open(&format!("{}/#/source/people/receiver/site", shop.managed.url()));
    browser.wait_for("site/1");
    browser.wait_for("too old");
    browser.picture("letters.png");
    browser.tab_to("Try again");
    browser.press("Enter");
    browser.wait_for("refused again");
    world.sql("site.db", "DROP TRIGGER u");
    browser.tab_to("Try again");
    browser.press("Enter");
    browser.wait_for("the destination has it now");
    browser.wait_for("Its destination refused nothing.");
    world.wait_equal(SOURCE, "sqlite:site.db");
    let audit = shop.audit("retry");
    assert_eq!(audit.len(), 2, "{audit:?}");

    // One that ends can't be asked any more, and is shown to be gone.
    let Shop { managed, crm, .. } = shop;
    crm.kill();
    browser.open(&format!("{}/#/source/people/receiver/crm", managed.url()));
    browser.wait_for("the source has changed since");
    browser.tab_to("Ask again");
    browser.press("Enter");
    browser.wait_for("crm can’t be asked: it was last seen");
    browser.wait_for("gone, last seen");
    browser.open(&format!("{}/#/", managed.url()));
    browser.wait("the other one is there", "document.body.innerText.includes('up to date')");
    browser.picture("gone.png");

    assert_eq!(browser.complaints(), Vec::<String>::new());
}

/// All that is to be had only by a session, and what is answered without one.
const PATHS: &str = "['/app.js', '/view.js', '/api/me', '/api/events', '/api/sources/people/conflicts', '/api/sources/people/dead-letters', \
     '/api/sources/people/history', '/api/sources/people/history/1?at=2', '/api/receivers/people/crm/plan', \
     '/api/receivers/people/crm/dead-letters']";

#[test]
fn strangers_get_nothing_and_a_session_ends_with_its_right() {
    let world = World::new();
    // Where participants need certificates, a browser comes without one all the same.
    let managed = Managed::start(&world, "--mutual");
    let link = || world.run("page").exits(0).stdout().trim().to_owned();
    let mut stranger = Driven::start(&world, "stranger");
    stranger.open(&format!("{}/", managed.url()));
    stranger.wait_for("You come in by a link.");
    let statuses = |browser: &mut Driven<'_>| {
        browser.value(&format!("Promise.all({PATHS}.map(path => fetch(path).then(answer => answer.status)))"))
    };
    assert_eq!(statuses(&mut stranger), json!(vec![401; 10]));
    let posts = "Promise.all(['/api/logout', '/api/sources/people/confirm', '/api/sources/people/decide', \
         '/api/receivers/people/crm/dead-letters'].map(path => fetch(path, { method: 'POST', body: '{}', \
         headers: { 'content-type': 'application/json' } }).then(answer => answer.status)))";
    assert_eq!(stranger.value(posts), json!(vec![401; 4]));
    assert_eq!(stranger.value("fetch('/health').then(answer => answer.text())"), "ok\n");

    // A link that was made up, or used, lets nobody in.
    stranger.open(&format!("{}/login#AAAA", managed.url()));
    stranger.wait_for("this link was used already, or is too old");
    let link_of_ann = link();
    let mut ann = Driven::start(&world, "ann");
    ann.open(&link_of_ann);
    ann.wait_for("No sources yet");
    assert_eq!(ann.value("location.href"), format!("{}/", managed.url()), "the secret is not in the address any more");
    stranger.open("about:blank");
    stranger.open(&link_of_ann);
    stranger.wait_for("this link was used already, or is too old");

    // With a session, but not by a script of the page, nothing is done; scripts don't see the session.
    assert_eq!(ann.value(posts), json!(vec![403; 4]));
    assert_eq!(ann.value("document.cookie"), "");
    let elsewhere = "fetch('/api/me').then(answer => answer.headers.get('content-security-policy'))";
    assert!(ann.value(elsewhere).as_str().is_some_and(|policy| policy.contains("default-src 'none'")));

    // Another administrator takes the right away: the page is left at once.
    managed.token("boss", "--administrate");
    world.run(&managed.line("boss", "who")).exits(0);
    world.run(&managed.line("boss", "revoke administrator")).exits(0);
    ann.wait_for("You come in by a link.");
    assert_eq!(statuses(&mut ann), json!(vec![401; 10]));
    let audit = world.run(&managed.line("boss", "audit")).exits(0).stdout();
    assert!(audit.contains("login") && audit.contains("page"), "{audit}");
}
