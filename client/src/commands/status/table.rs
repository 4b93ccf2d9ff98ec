//! The table that a person reads at a glance: what is well is green and says no more, what is not
//! says why in a few words at the end of its line.

use std::time::Duration;

use console::{Alignment, Style, measure_text_width, pad_str};
use highwater_client::{EntityStatus, State, StoreStatus, SyncHelper, Timestamp};

use super::{age, between};

const TITLES: [&str; 5] = ["entity", "state", "rows", "last sync date", "age"];

/// How each entity stands, a line each. Colours are in it where standard output shows them.
pub(super) fn table(store: &StoreStatus, now: Timestamp) -> String {
    if store.entities.is_empty() {
        return "nothing was pulled yet; `highwater pull` brings the first rows".to_owned();
    }
    let newest = store
        .entities
        .iter()
        .filter_map(|entity| entity.sync_helper.pulled_at)
        .max();
    let rows: Vec<[String; 5]> = store.entities.iter().map(|entity| cells(entity, now)).collect();
    let widths = widths(&rows);
    let title = line(&TITLES.map(str::to_owned), &widths, &Style::new());
    let mut lines = vec![Style::new().bold().apply_to(title.trim_end()).to_string()];
    for (entity, row) in store.entities.iter().zip(&rows) {
        let helper = &entity.sync_helper;
        let (style, note) = (style(helper.state), note(helper, newest));
        let line = line(row, &widths, &style);
        lines.push(match note {
            Some(note) => format!("{line}  {}", style_of_note(helper.state).apply_to(note)),
            None => line.trim_end().to_owned(),
        });
    }
    lines.join("\n")
}

fn cells(entity: &EntityStatus, now: Timestamp) -> [String; 5] {
    let helper = &entity.sync_helper;
    [
        // A name is the server's to choose, and a terminal obeys what is in it.
        helper.entity.as_str().replace(char::is_control, "\u{fffd}"),
        helper.state.to_string(),
        entity.rows.to_string(),
        helper.last_sync_date.to_string(),
        age(helper, now).map_or("never pulled to the end".to_owned(), words),
    ]
}

fn widths(rows: &[[String; 5]]) -> [usize; 5] {
    let mut widths = TITLES.map(measure_text_width);
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(measure_text_width(cell));
        }
    }
    widths
}

/// One line of aligned cells, the state in its colour; numbers of rows stand to the right.
fn line(row: &[String; 5], widths: &[usize; 5], state: &Style) -> String {
    let cells: Vec<String> = row
        .iter()
        .zip(widths)
        .enumerate()
        .map(|(column, (cell, &width))| match column {
            1 => state
                .apply_to(pad_str(cell, width, Alignment::Left, None))
                .to_string(),
            2 => pad_str(cell, width, Alignment::Right, None).into_owned(),
            _ => pad_str(cell, width, Alignment::Left, None).into_owned(),
        })
        .collect();
    cells.join("  ")
}

fn style(state: State) -> Style {
    match state {
        State::Current => Style::new().green(),
        State::Withdrawn => Style::new().red(),
        _ => Style::new().yellow(),
    }
}

/// An entity that is well but older than others is a hint, not an alarm.
fn style_of_note(state: State) -> Style {
    match state {
        State::Current => Style::new().yellow(),
        other => style(other),
    }
}

/// What a reader of the entity should know, where it is not at the same cut as the newest.
fn note(helper: &SyncHelper, newest: Option<Timestamp>) -> Option<String> {
    Some(match helper.state {
        State::Current => {
            let behind = between(helper.pulled_at?, newest?);
            if behind.is_zero() {
                return None;
            }
            format!("{} behind the newest", words(behind))
        }
        State::Pulling => "in the middle of a pull, not at one cut".to_owned(),
        State::Renewing => "begins anew; readers have the old rows".to_owned(),
        State::Waiting => "begins anew with the next pull".to_owned(),
        State::Withdrawn => "no longer served; its rows stay as they were".to_owned(),
        // A later version of the library may know more.
        _ => return None,
    })
}

/// An age as one reads it at a glance: `4s`, `12m`, `3h`, `5d`.
fn words(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let shown: Vec<String> = [0, 119, 120, 7_200, 172_800]
            .into_iter()
            .map(|seconds| words(Duration::from_secs(seconds)))
            .collect();
        assert_eq!(shown, ["0s", "119s", "2m", "2h", "2d"]);
    }
}
