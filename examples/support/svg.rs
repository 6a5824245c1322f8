//! Dot text as an SVG picture, without Graphviz: `layout-rs` places, this draws. Uses: layout-rs.
//!
//! The same text gives the same bytes. `layout-rs` panics on some graphs; that is caught, and is an
//! error like any other.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use layout::core::color::Color;
use layout::core::format::{ClipHandle, RenderBackend, Visible as _};
use layout::core::geometry::{Point, Position};
use layout::core::style::StyleAttr;
use layout::gv::{DotParser, GraphBuilder};

/// The font of nodes; any other is that of an edge's label.
const NODE_FONT: usize = 14;
const NODE_PIXELS: f64 = 14.0;
const EDGE_PIXELS: f64 = 12.0;
/// `layout-rs` takes a letter to be as wide as it is high, and lines to touch. For nodes this makes
/// it right; labels of edges are placed as if they were smaller.
const SCALE: Point = Point { x: 0.58, y: 1.15 };
const EDGE_FONT: (&str, &str) = ("fontsize=10", "fontsize=8");
/// The space around a node, half of it on each side: beside it if the arrows run
/// to the right, and everywhere else.
const SPACE: (f64, f64) = (100.0, 50.0);
const MARGIN: f64 = 12.0;

/// The picture that `dot` describes.
///
/// # Errors
/// What is wrong with the text, or that it could not be placed.
pub fn render(dot: &str) -> Result<String, String> {
    catch_unwind(AssertUnwindSafe(|| draw(dot)))
        .unwrap_or_else(|_| Err("layout-rs gave up on this graph".into()))
}

fn draw(dot: &str) -> Result<String, String> {
    let graph = DotParser::new(&dot.replace(EDGE_FONT.0, EDGE_FONT.1)).process()?;
    let mut builder = GraphBuilder::new();
    builder.visit_graph(&graph);
    let mut graph = builder.get();
    let runs_right = dot.contains("rankdir=LR");
    let space = match runs_right {
        true => Point::new(SPACE.0, SPACE.1),
        false => Point::new(SPACE.1, SPACE.1),
    };
    for node in graph.iter_nodes() {
        let size = graph.element(node).position().size(false);
        let size = Point::new(size.x * SCALE.x, size.y * SCALE.y);
        let zero = Point::zero();
        *graph.pos_mut(node) = Position::new(zero, size, zero, space);
    }
    let mut canvas = Canvas {
        runs_right,
        ..Canvas::default()
    };
    graph.do_it(false, false, false, &mut canvas);
    Ok(canvas.finish())
}

/// What was drawn. Lines lie below the shapes, texts above them.
#[derive(Default)]
struct Canvas {
    lines: String,
    shapes: String,
    texts: String,
    runs_right: bool,
    // Every rectangle so far: its corner and size.
    boxes: Vec<(Point, Point)>,
    corners: Option<(Point, Point)>,
}

impl Canvas {
    fn grow(&mut self, from: Point, to: Point) {
        let (low, high) = self.corners.unwrap_or((from, to));
        let low = Point::new(low.x.min(from.x), low.y.min(from.y));
        let high = Point::new(high.x.max(to.x), high.y.max(to.y));
        self.corners = Some((low, high));
    }

    /// Where an arrow that `layout-rs` ends at `end`, in the direction of `toward`, belongs in a
    /// picture that runs to the right: at the middle of the side of its row, and level there.
    /// `layout-rs` lets it aim at the middle of the row's nearer half, but end at any border.
    fn snapped(&self, end: Point, toward: Point) -> (Point, Point) {
        let ahead = toward.sub(end);
        let row = self.boxes.iter().find_map(|(corner, size)| {
            let inside = end.sub(*corner);
            let inside = (-0.5..size.x + 0.5).contains(&inside.x)
                && (-0.5..size.y + 0.5).contains(&inside.y);
            let (share, side) = if ahead.x > 0.0 {
                (0.75, size.x)
            } else {
                (0.25, 0.0)
            };
            let aim = corner
                .add(Point::new(size.x * share, size.y / 2.0))
                .sub(end);
            let off = (aim.x * ahead.y - aim.y * ahead.x).abs() / ahead.length();
            (inside && off < 1.0).then_some(corner.add(Point::new(side, size.y / 2.0)))
        });
        match row {
            Some(at) if self.runs_right => (at, at.add(Point::new(35.0 * ahead.x.signum(), 0.0))),
            _ => (end, toward),
        }
    }

    fn finish(&self) -> String {
        let (low, high) = self.corners.unwrap_or((Point::zero(), Point::zero()));
        let (x, y) = (low.x - MARGIN, low.y - MARGIN);
        let (width, height) = (high.x - x + MARGIN, high.y - y + MARGIN);
        let Canvas {
            lines,
            shapes,
            texts,
            ..
        } = self;
        format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0}" height="{height:.0}" viewBox="{x:.0} {y:.0} {width:.0} {height:.0}" font-family="Helvetica, Arial, sans-serif">
<defs><marker id="tip" markerWidth="10" markerHeight="8" refX="9" refY="4" orient="auto-start-reverse"><path d="M 0 0 L 10 4 L 0 8 z" fill="#444444"/></marker></defs>
<rect x="{x:.0}" y="{y:.0}" width="{width:.0}" height="{height:.0}" fill="#ffffff"/>
{lines}{shapes}{texts}</svg>
"##
        )
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// Without the transparency that not every viewer reads from a colour.
fn web(color: Color) -> String {
    color.to_web_color()[..7].to_string()
}

impl RenderBackend for Canvas {
    fn draw_rect(
        &mut self,
        at: Point,
        size: Point,
        look: &StyleAttr,
        _properties: Option<String>,
        _clip: Option<ClipHandle>,
    ) {
        self.grow(at, at.add(size));
        self.boxes.push((at, size));
        let fill = look.fill_color.map_or("none".into(), web);
        let stroke = web(look.line_color);
        let _ = writeln!(
            self.shapes,
            r#"<rect x="{:.1}" y="{:.1}" width="{:.1}" height="{:.1}" rx="{}" fill="{fill}" stroke="{stroke}"/>"#,
            at.x, at.y, size.x, size.y, look.rounded
        );
    }

    fn draw_line(&mut self, _: Point, _: Point, _: &StyleAttr, _: Option<String>) {}

    fn draw_circle(&mut self, at: Point, size: Point, look: &StyleAttr, _: Option<String>) {
        let half = size.scale(0.5);
        self.grow(at.sub(half), at.add(half));
        let fill = look.fill_color.map_or("none".into(), web);
        let stroke = web(look.line_color);
        let _ = writeln!(
            self.shapes,
            r#"<ellipse cx="{:.1}" cy="{:.1}" rx="{:.1}" ry="{:.1}" fill="{fill}" stroke="{stroke}"/>"#,
            at.x, at.y, half.x, half.y
        );
    }

    fn draw_text(&mut self, at: Point, text: &str, look: &StyleAttr) {
        let (pixels, halo) = if look.font_size == NODE_FONT {
            (NODE_PIXELS, "")
        } else {
            let halo =
                r##" fill="#444444" stroke="#ffffff" stroke-width="4" paint-order="stroke""##;
            (EDGE_PIXELS, halo)
        };
        let height = pixels * 1.2;
        let count = text.lines().count() as f64;
        let longest = text.lines().map(|l| l.chars().count()).max().unwrap_or(0) as f64;
        let half = Point::new(longest * pixels * 0.27, count * height / 2.0);
        self.grow(at.sub(half), at.add(half));
        for (number, line) in text.lines().enumerate() {
            // The line's middle, and from there down to where the letters stand.
            let y = at.y + (number as f64 - (count - 1.0) / 2.0) * height + pixels * 0.35;
            let _ = writeln!(
                self.texts,
                r#"<text x="{:.1}" y="{y:.1}" font-size="{pixels}" text-anchor="middle"{halo}>{}</text>"#,
                at.x,
                escaped(line)
            );
        }
    }

    fn draw_arrow(
        &mut self,
        path: &[(Point, Point)],
        dashed: bool,
        head: (bool, bool),
        look: &StyleAttr,
        _properties: Option<String>,
        _text: &str,
    ) {
        let mut path = path.to_vec();
        if let Some((start, toward)) = path.first_mut() {
            (*start, *toward) = self.snapped(*start, *toward);
        }
        if let Some((toward, end)) = path.last_mut() {
            (*end, *toward) = self.snapped(*end, *toward);
        }
        let mut curve = String::new();
        for (number, (first, second)) in path.iter().enumerate() {
            self.grow(*first, *first);
            let between = match number {
                0 => "M",
                1 => "",
                _ => "S",
            };
            let join = if number == 0 { "C" } else { "" };
            let _ = write!(
                curve,
                "{between}{:.1},{:.1} {join}{:.1},{:.1} ",
                first.x, first.y, second.x, second.y
            );
        }
        let dash = if dashed {
            r#" stroke-dasharray="6,4""#
        } else {
            ""
        };
        let start = if head.0 {
            r#" marker-start="url(#tip)""#
        } else {
            ""
        };
        let end = if head.1 {
            r#" marker-end="url(#tip)""#
        } else {
            ""
        };
        let _ = writeln!(
            self.lines,
            r#"<path d="{}" fill="none" stroke="{}"{dash}{start}{end}/>"#,
            curve.trim_end(),
            web(look.line_color)
        );
    }

    fn create_clip(&mut self, _: Point, _: Point, _: usize) -> ClipHandle {
        0
    }
}
