//! A drawing of rectangles, lines and texts, as SVG and as PNG. Needs no font of
//! the host: an SVG names a kind of font, the PNG brings its own.

use std::fmt::Write as _;

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

/// Pixels of the PNG for one unit, so that it is sharp on screens of today.
const SCALE: usize = 2;
/// What one character takes, in units: the PNG's font at [`SCALE`].
pub const CHARACTER: usize =
    get_raster_width(FontWeight::Regular, RasterHeight::Size32).div_ceil(SCALE);

pub type Color = [u8; 3];
pub const INK: Color = [0x22, 0x26, 0x2e];
pub const FAINT: Color = [0x6b, 0x72, 0x80];
pub const GRID: Color = [0xe2, 0xe5, 0xea];

enum Shape {
    Rectangle { x: usize, y: usize, width: usize, height: usize, color: Color },
    Text { x: usize, y: usize, text: String, color: Color, bold: bool },
}

pub struct Drawing {
    width: usize,
    height: usize,
    shapes: Vec<Shape>,
}

impl Drawing {
    pub fn new(width: usize, height: usize) -> Self {
        Self { width, height, shapes: Vec::new() }
    }

    pub fn rectangle(&mut self, x: usize, y: usize, width: usize, height: usize, color: Color) {
        self.shapes.push(Shape::Rectangle { x, y, width, height, color });
    }

    /// `y` is the text's middle.
    pub fn text(&mut self, x: usize, y: usize, text: &str, color: Color, bold: bool) {
        // What the PNG's font has; both shall say the same.
        let text = text.replace('µ', "u");
        let shown = |character: char| if matches!(character, ' '..='~') { character } else { '?' };
        let text = text.chars().map(shown).collect();
        self.shapes.push(Shape::Text { x, y, text, color, bold });
    }

    pub fn svg(&self) -> String {
        let (width, height) = (self.width, self.height);
        let mut svg = format!(
            r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-family="ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace" font-size="13" dominant-baseline="central">
<rect width="{width}" height="{height}" fill="#ffffff"/>
"##
        );
        for shape in &self.shapes {
            // Writing into a string cannot fail.
            let _ = match shape {
                Shape::Rectangle { x, y, width, height, color } => writeln!(
                    svg,
                    r#"<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{}"/>"#,
                    hex(*color)
                ),
                Shape::Text { x, y, text, color, bold } => writeln!(
                    svg,
                    r#"<text x="{x}" y="{y}" fill="{}"{} xml:space="preserve" textLength="{}">{}</text>"#,
                    hex(*color),
                    if *bold { r#" font-weight="bold""# } else { "" },
                    text.len() * CHARACTER,
                    text.replace('&', "&amp;").replace('<', "&lt;")
                ),
            };
        }
        svg + "</svg>\n"
    }

    pub fn png(&self) -> Result<Vec<u8>, png::EncodingError> {
        let mut pixels = Pixels::white(self.width * SCALE, self.height * SCALE);
        for shape in &self.shapes {
            match shape {
                Shape::Rectangle { x, y, width, height, color } => {
                    for row in y * SCALE..(y + height) * SCALE {
                        for column in x * SCALE..(x + width) * SCALE {
                            pixels.blend(column, row, *color, u8::MAX);
                        }
                    }
                }
                Shape::Text { x, y, text, color, bold } => {
                    pixels.text(x * SCALE, y * SCALE, text, *color, *bold);
                }
            }
        }
        pixels.encode()
    }
}

fn hex([red, green, blue]: Color) -> String {
    format!("#{red:02x}{green:02x}{blue:02x}")
}

struct Pixels {
    width: usize,
    height: usize,
    data: Vec<u8>,
}

impl Pixels {
    fn white(width: usize, height: usize) -> Self {
        Self { width, height, data: vec![u8::MAX; width * height * 3] }
    }

    /// Puts a color over what is there; what lies outside is not drawn.
    fn blend(&mut self, x: usize, y: usize, color: Color, cover: u8) {
        if x >= self.width || y >= self.height {
            return;
        }
        let place = (y * self.width + x) * 3;
        for (below, above) in self.data[place..place + 3].iter_mut().zip(color) {
            let (cover, old, new) = (u32::from(cover), u32::from(*below), u32::from(above));
            *below = u8::try_from((old * (255 - cover) + new * cover) / 255).unwrap_or(u8::MAX);
        }
    }

    fn text(&mut self, x: usize, middle: usize, text: &str, color: Color, bold: bool) {
        let weight = if bold { FontWeight::Bold } else { FontWeight::Regular };
        let top = middle.saturating_sub(RasterHeight::Size32.val() / 2);
        for (number, character) in text.chars().enumerate() {
            let Some(raster) = get_raster(character, weight, RasterHeight::Size32) else {
                continue;
            };
            for (row, line) in raster.rows().enumerate() {
                for (column, cover) in line.iter().enumerate() {
                    self.blend(x + number * CHARACTER * SCALE + column, top + row, color, *cover);
                }
            }
        }
    }

    fn encode(&self) -> Result<Vec<u8>, png::EncodingError> {
        let mut file = Vec::new();
        let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
        let mut encoder = png::Encoder::new(&mut file, side(self.width), side(self.height));
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.write_header()?.write_image_data(&self.data)?;
        Ok(file)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_show_what_was_drawn() {
        let mut drawing = Drawing::new(60, 20);
        drawing.rectangle(2, 2, 10, 10, [200, 0, 0]);
        drawing.text(20, 10, "a<b µ", INK, false);
        let svg = drawing.svg();
        assert!(svg.contains("#c80000") && svg.contains("a&lt;b u</text>"), "{svg}");
        let png = drawing.png().unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (120, 40));
        let pixel = |x: usize, y: usize| &pixels[(y * 120 + x) * 3..][..3];
        assert_eq!(pixel(10, 10), [200, 0, 0]);
        assert_eq!(pixel(30, 10), [255, 255, 255]);
        let ink = (40..120).any(|x| (0..40).any(|y| pixel(x, y) == INK));
        assert!(ink, "the text was not drawn");
    }
}
