//! Draws bars beside each other as SVG, with a whisker from the least to the most.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::figures::figure;
use crate::measure::{Samples, float};
use crate::outcome::Chart;

const WIDTH: u32 = 860;
const BAR_HEIGHT: u32 = 24;
const GAP_HEIGHT: u32 = 14;
const TITLE_HEIGHT: u32 = 42;
const LEGEND_HEIGHT: u32 = 26;
const AXIS_HEIGHT: u32 = 46;
const LABEL_WIDTH: u32 = 330;
/// How much longer the axis is than the longest bar, for the number behind it.
const HEADROOM: f64 = 1.12;
const FONT: &str = "sans-serif";
/// One for each series.
const COLOURS: [RGBColor; 4] = [
    RGBColor(31, 97, 158),
    RGBColor(205, 133, 63),
    RGBColor(94, 140, 97),
    RGBColor(130, 130, 130),
];
const LIMIT_COLOUR: RGBColor = RGBColor(192, 40, 40);

type Root<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Area<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// `chart` as the text of an SVG file.
pub(crate) fn svg(chart: &Chart) -> Result<String> {
    let mut text = String::new();
    let layout = Layout::of(chart)?;
    {
        let root = SVGBackend::with_string(&mut text, (WIDTH, layout.height)).into_drawing_area();
        root.fill(&WHITE)?;
        root.draw(&Text::new(chart.title.as_str(), (14, 12), (FONT, 18)))?;
        draw_legend(chart, &layout, &root)?;
        let mut area = draw_axis(chart, &layout, &root)?;
        for (place, (label, bars)) in chart.groups.iter().enumerate() {
            // From above, though the axis counts from below.
            let top = layout.groups - float(place as u64);
            draw_group(&layout, &root, &mut area, label, bars, top)?;
        }
        if let Some(limit) = chart.limit {
            let line = [(limit, 0.0), (limit, layout.groups)];
            area.draw_series([PathElement::new(line, LIMIT_COLOUR.stroke_width(2))])?;
        }
        root.present()?;
    }
    Ok(text)
}

/// Where what stands.
struct Layout {
    height: u32,
    legend_height: u32,
    group_height: u32,
    groups: f64,
}

impl Layout {
    fn of(chart: &Chart) -> Result<Self> {
        let bars = chart.groups.iter().map(|(_, bars)| bars.len()).max().unwrap_or(1);
        let groups = u32::try_from(chart.groups.len())?;
        let group_height = u32::try_from(bars)? * BAR_HEIGHT + GAP_HEIGHT;
        let named = !chart.series.is_empty() || chart.limit.is_some();
        let legend_height = if named { LEGEND_HEIGHT } else { 0 };
        Ok(Self {
            height: TITLE_HEIGHT + legend_height + groups * group_height + AXIS_HEIGHT,
            legend_height,
            group_height,
            groups: f64::from(groups),
        })
    }

    /// How much of a group's height `pixels` are.
    fn share(&self, pixels: u32) -> f64 {
        f64::from(pixels) / f64::from(self.group_height)
    }
}

/// Says what the colours mean.
fn draw_legend(chart: &Chart, layout: &Layout, root: &Root<'_>) -> Result<()> {
    if layout.legend_height == 0 {
        return Ok(());
    }
    let series = chart.series.iter().zip(COLOURS);
    let mut shown: Vec<(String, RGBColor)> = series.map(|(name, colour)| (name.clone(), colour)).collect();
    if let Some(limit) = chart.limit {
        shown.push((format!("{} {}", figure(limit), chart.axis), LIMIT_COLOUR));
    }
    let (mut x, y) = (i32::try_from(LABEL_WIDTH)?, i32::try_from(TITLE_HEIGHT)?);
    for (name, colour) in shown {
        root.draw(&Rectangle::new([(x, y), (x + 14, y + 12)], colour.filled()))?;
        root.draw(&Text::new(name.as_str(), (x + 20, y), (FONT, 13)))?;
        // No font is measured here; this is wide enough for any.
        x += 44 + i32::try_from(name.chars().count())? * 8;
    }
    Ok(())
}

fn draw_axis<'a>(chart: &Chart, layout: &Layout, root: &Root<'a>) -> Result<Area<'a>> {
    let bars = chart.groups.iter().flat_map(|(_, bars)| bars);
    let longest = bars.map(Samples::most).chain(chart.limit).fold(0.0, f64::max);
    let mut area = ChartBuilder::on(root)
        .margin_top(TITLE_HEIGHT + layout.legend_height)
        .margin_right(30)
        .set_label_area_size(LabelAreaPosition::Left, LABEL_WIDTH)
        .set_label_area_size(LabelAreaPosition::Bottom, AXIS_HEIGHT)
        .build_cartesian_2d(0.0..longest * HEADROOM, 0.0..layout.groups)?;
    area.configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_labels(8)
        .light_line_style(WHITE)
        .x_label_formatter(&|number| figure(*number))
        .x_desc(chart.axis.as_str())
        .axis_desc_style((FONT, 13))
        .label_style((FONT, 12))
        .draw()?;
    Ok(area)
}

fn draw_group(
    layout: &Layout,
    root: &Root<'_>,
    area: &mut Area<'_>,
    label: &str,
    bars: &[Samples],
    top: f64,
) -> Result<()> {
    let text = |size: i32, side| {
        (FONT, size)
            .into_text_style(root)
            .pos(Pos::new(side, VPos::Center))
    };
    let (_, y) = area.backend_coord(&(0.0, top - 0.5));
    let x = i32::try_from(LABEL_WIDTH)? - 10;
    root.draw(&Text::new(label, (x, y), text(13, HPos::Right)))?;
    let share = layout.share(BAR_HEIGHT);
    let edge = layout.share(GAP_HEIGHT) / 2.0;
    for (number, (samples, colour)) in bars.iter().zip(COLOURS).enumerate() {
        let top = top - edge - share * float(number as u64);
        let (median, middle) = (samples.median(), top - share / 2.0);
        let corners = [(0.0, top - share * 0.08), (median, top - share * 0.92)];
        area.draw_series([Rectangle::new(corners, colour.filled())])?;
        let whisker = [(samples.least(), middle), (samples.most(), middle)];
        area.draw_series([PathElement::new(whisker, BLACK)])?;
        let (x, y) = area.backend_coord(&(samples.most(), middle));
        root.draw(&Text::new(figure(median), (x + 6, y), text(12, HPos::Left)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bar_and_its_number_are_drawn() {
        let samples = |number: f64| [number].into_iter().collect::<Samples>();
        let chart = Chart {
            name: "first".to_owned(),
            title: "The first".to_owned(),
            axis: "s".to_owned(),
            series: vec!["ours".to_owned(), "theirs".to_owned()],
            groups: vec![("flights & more".to_owned(), vec![samples(1.5), samples(2.75)])],
            limit: None,
        };
        let text = svg(&chart).unwrap();
        for shown in [
            "The first",
            "ours",
            "theirs",
            "flights &amp; more",
            "1.50",
            "2.75",
            "</svg>",
        ] {
            assert!(text.contains(shown), "{shown} is not in\n{text}");
        }
    }
}
