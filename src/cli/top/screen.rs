//! The terminal: keys in, frames out, and always restored at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::fetch::Answers;
use super::model::{Board, Wish};
use super::view::{self, Palette};

/// Interval at which the thread that waits for keys checks whether to stop.
const KEYS_POLL: Duration = Duration::from_millis(100);

/// Most keys that may wait. Further ones wait in the terminal.
const KEYS_MAX: usize = 16;

/// The terminal in raw mode. It is restored on drop, and by ratatui's hook before a panic is
/// printed.
struct Screen(DefaultTerminal);

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Shows the board until the operator quits or the process is told to stop.
pub(super) async fn run(mut board: Board, mut answers: Answers) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let palette = Palette::of_environment();
    let mut screen = Screen(ratatui::try_init().context("the terminal cannot be used; --once and --json need none")?);
    let (mut events, wanted) = keys()?;
    loop {
        screen.0.draw(|frame| view::draw(frame, &board, &palette))?;
        tokio::select! {
            _ = terminate.recv() => break,
            Some(event) = events.recv() => match event {
                Event::Key(key) if key.is_press() || key.is_repeat() => match asked(key) {
                    Asked::Quit => break,
                    Asked::Wish(wish) => board.obey(wish),
                    // Any other key closes the help.
                    Asked::Nothing => board.help = false,
                },
                // The next frame has the new size.
                _ => {}
            },
            Some(answer) = answers.next() => board.take(answer),
        }
    }
    wanted.store(false, Ordering::Relaxed);
    Ok(())
}

enum Asked {
    Quit,
    Wish(Wish),
    Nothing,
}

fn asked(key: KeyEvent) -> Asked {
    match key.code {
        KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => Asked::Quit,
        KeyCode::Char('q') => Asked::Quit,
        KeyCode::Up | KeyCode::Char('k') => Asked::Wish(Wish::Up),
        KeyCode::Down | KeyCode::Char('j') => Asked::Wish(Wish::Down),
        KeyCode::Char('s') => Asked::Wish(Wish::Sort),
        KeyCode::Char('p' | ' ') => Asked::Wish(Wish::Pause),
        KeyCode::Char('h' | '?') => Asked::Wish(Wish::Help),
        _ => Asked::Nothing,
    }
}

/// Events of the terminal, from a thread that waits for them.
fn keys() -> std::io::Result<(mpsc::Receiver<Event>, Arc<AtomicBool>)> {
    let (sender, receiver) = mpsc::channel(KEYS_MAX);
    let wanted = Arc::new(AtomicBool::new(true));
    let asked = wanted.clone();
    std::thread::Builder::new().name("keys".to_owned()).spawn(move || {
        while asked.load(Ordering::Relaxed) {
            let event = match event::poll(KEYS_POLL) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            // Without a terminal there are no further keys.
            let Ok(event) = event else { return };
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    })?;
    Ok((receiver, wanted))
}
