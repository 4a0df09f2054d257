//! The terminal of `session-manager top`: keys arrive one by one and are not echoed. Dropping it
//! restores the terminal.

use std::io::{IsTerminal, Stdin};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

/// The bytes of Ctrl-C and Ctrl-D.
const CONTROL_C: u8 = 3;
const CONTROL_D: u8 = 4;

/// Standard input, if it is a terminal.
pub struct Terminal {
    input: Stdin,
    before: Option<Termios>,
}

impl Terminal {
    /// Takes the terminal, if there is one.
    pub fn take() -> Self {
        let input = std::io::stdin();
        let before = input.is_terminal().then(|| tcgetattr(&input).ok()).flatten();
        if let Some(before) = &before {
            let mut keys = before.clone();
            // Ctrl-C arrives as a key too, so that the terminal is restored before the end.
            keys.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
            keys.special_codes[SpecialCodeIndex::VMIN] = 0;
            keys.special_codes[SpecialCodeIndex::VTIME] = 0;
            let _ = tcsetattr(&input, OptionalActions::Now, &keys);
        }
        Self { input, before }
    }

    /// Waits, and returns whether q, Ctrl-C or Ctrl-D was pressed meanwhile.
    pub fn wait(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        if self.before.is_none() {
            std::thread::sleep(time);
            return false;
        }
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let Ok(timeout) = Timespec::try_from(left) else { return false };
            let mut inputs = [PollFd::new(&self.input, PollFlags::IN)];
            // An interrupting signal is not a key.
            if !matches!(poll(&mut inputs, Some(&timeout)), Ok(1..)) {
                continue;
            }
            let mut keys = [0; 64];
            match rustix::io::read(&self.input, &mut keys) {
                Ok(0) => return true,
                Ok(count) => {
                    let wants = |key: &u8| matches!(*key, b'q' | b'Q' | CONTROL_C | CONTROL_D);
                    if keys.iter().take(count).any(wants) {
                        return true;
                    }
                }
                // The terminal is gone.
                Err(_) => return true,
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(&self.input, OptionalActions::Now, before);
        }
    }
}
