//! A terminal of a test's own, in which the program runs as it does for people.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::{World, program};

/// A terminal with a shell in it that runs one command line of the program and then says how that ended.
pub struct Terminal {
    child: Child,
    keyboard: ChildStdin,
    written: PathBuf,
    device: PathBuf,
}

/// What stands on a terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// Its lines, without spaces at their ends.
    pub lines: Vec<String>,
    /// The alternate screen is shown.
    pub alternate: bool,
    /// The cursor is shown.
    pub cursor: bool,
    /// How often it was drawn from the top.
    pub frames: usize,
}

impl Terminal {
    /// Opens one of this size in `world` and runs the line; `settings` are put before it, as a shell takes them (`NAME=value`).
    pub fn start(world: &World, columns: usize, rows: usize, settings: &str, line: &str) -> Terminal {
        let (written, device) = (world.path("terminal"), world.path("terminal-device"));
        for old in [&written, &device] {
            // A test may open several, one after the other.
            let _ = std::fs::remove_file(old);
        }
        let deltabus = program().display();
        let inside = format!(
            // The quotes tell what the shell says from what it was told, which `script` writes down too. The shell lives on when
            // a key interrupts the program: some end with it.
            "trap : INT; stty cols {columns} rows {rows}; tty > {}; stty -g; {settings} {deltabus} {line}; echo \"ended\"\": $?\"; stty -g",
            device.display()
        );
        let mut command = Command::new("script");
        command.args(["--quiet", "--flush", "--return", "--command", &inside]).arg(&written);
        command.current_dir(world.path(".")).env("DELTABUS_STATE", world.path("state")).env("TERM", "xterm");
        // `script` runs the shell of whoever tests, where that is said.
        command.env("SHELL", "/bin/sh");
        for name in ["NO_COLOR", "LC_ALL", "LC_CTYPE", "LANG", "DELTABUS_BUS", "DELTABUS_TOKEN"] {
            command.env_remove(name);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("`script` is there (Debian: bsdutils)");
        let keyboard = child.stdin.take().expect("it is piped");
        Terminal { child, keyboard, written, device }
    }

    /// Everything that was written to it so far.
    pub fn written(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.written).unwrap_or_default()).into_owned()
    }

    /// Whether the program has ended.
    pub fn has_ended(&self) -> bool {
        self.written().contains("ended: ")
    }

    /// What stands on it now.
    pub fn picture(&self) -> Picture {
        picture(&self.written())
    }

    /// Types something.
    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("somebody reads");
        self.keyboard.flush().expect("somebody reads");
    }

    /// Makes it another size, as somebody who pulls at its window.
    pub fn resize(&self, columns: usize, rows: usize) {
        let device = std::fs::read_to_string(&self.device).expect("the shell has said which it is");
        let stty = ["cols", &columns.to_string(), "rows", &rows.to_string()].map(str::to_owned);
        let status = Command::new("stty").arg("-F").arg(device.trim()).args(stty).status().expect("stty is there");
        assert!(status.success(), "{status}");
    }

    /// Waits for the end; gives the program's exit code, and whether it left the terminal's settings as they were.
    pub fn end(mut self) -> (i32, bool) {
        drop(self.keyboard);
        self.child.wait().expect("a child can be waited for");
        let written = String::from_utf8_lossy(&std::fs::read(&self.written).expect("it wrote")).into_owned();
        let code = written.split("ended: ").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok());
        let code = code.unwrap_or_else(|| panic!("it did not end: {written}"));
        let settings: Vec<_> = written.lines().map(str::trim).filter(|line| line.matches(':').count() > 10).collect();
        assert_eq!(settings.len(), 2, "{written}");
        (code, settings[0] == settings[1])
    }
}

/// What a terminal shows to which this was written. Of what a terminal obeys, it knows what the program uses.
fn picture(written: &str) -> Picture {
    let mut shown = Picture { cursor: true, ..Picture::default() };
    let (mut row, mut column) = (0, 0);
    let mut lines: Vec<Vec<char>> = Vec::new();
    let mut chars = written.chars();
    while let Some(char) = chars.next() {
        match char {
            '\r' => column = 0,
            '\n' => row += 1,
            '\u{1b}' => {
                let mut sequence = String::new();
                for char in chars.by_ref() {
                    sequence.push(char);
                    if char.is_ascii_alphabetic() {
                        break;
                    }
                }
                match sequence.as_str() {
                    "[H" => (row, column, shown.frames) = (0, 0, shown.frames + 1),
                    "[K" => lines.get_mut(row).into_iter().for_each(|line| line.truncate(column)),
                    "[J" => {
                        lines.get_mut(row).into_iter().for_each(|line| line.truncate(column));
                        lines.truncate(row + 1);
                    }
                    "[?1049h" => {
                        (row, column, shown.alternate) = (0, 0, true);
                        lines.clear();
                    }
                    "[?1049l" => shown.alternate = false,
                    "[?25h" => shown.cursor = true,
                    "[?25l" => shown.cursor = false,
                    colour if colour.ends_with('m') => {}
                    other => panic!("the terminal does not know {other:?}"),
                }
            }
            char => {
                lines.resize(lines.len().max(row + 1), Vec::new());
                let line = &mut lines[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = char;
                column += 1;
            }
        }
    }
    shown.lines = lines.into_iter().map(|line| line.into_iter().collect::<String>().trim_end().to_owned()).collect();
    shown
}
