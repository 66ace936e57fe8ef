//! A simulation as one page that needs nothing else: the picture, the sums, what is left, and each day.

use std::fmt::Write as _;

use super::Simulation;
use super::svg::escape;
use super::table::kind_word;
use crate::sizes::format_size;

const STYLE: &str = "body{font:15px/1.5 system-ui,'DejaVu Sans',sans-serif;color:#202124;max-width:1160px;\
    margin:2rem auto;padding:0 1rem}h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}\
    p.sub{color:#5f6368;margin:.2rem 0 1rem}ul.sums{padding-left:1.2rem}svg{max-width:100%;height:auto;\
    border:1px solid #e3e5e8;border-radius:6px}.warning{background:#fff4e5;border-left:4px solid #e69f00;\
    padding:.5rem .8rem;margin:.5rem 0}table{border-collapse:collapse;font-variant-numeric:tabular-nums}\
    th,td{text-align:left;padding:.25rem .9rem .25rem 0;border-bottom:1px solid #e3e5e8}\
    td.n,th.n{text-align:right}summary{cursor:pointer;margin:1rem 0 .5rem}";

impl Simulation {
    /// The page, with the picture in it and no script.
    #[must_use]
    pub fn render_html(&self) -> String {
        let title = escape(&self.title);
        let mut out = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
             <style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<p class=\"sub\">{}</p>\n",
            escape(&format!(
                "{}, {} to {}; sizes are estimates",
                self.schedule,
                self.day_text(self.start),
                self.day_text(self.end.plus_millis(-1))
            ))
        );
        for warning in self.warning_lines() {
            let _ = writeln!(out, "<p class=\"warning\">{}</p>", escape(&warning));
        }
        out.push_str("<ul class=\"sums\">\n");
        for line in self.summary() {
            let _ = writeln!(out, "<li>{}</li>", escape(&line));
        }
        out.push_str("</ul>\n");
        out.push_str(&self.render_svg());
        self.kept_rows(&mut out);
        self.day_rows(&mut out);
        out.push_str("</body>\n</html>\n");
        out
    }

    fn kept_rows(&self, out: &mut String) {
        out.push_str(
            "<h2>Left at the end</h2>\n<table>\n<tr><th>made<th>as<th class=\"n\">size<th>kept for<th>made as that for</tr>\n",
        );
        for life in self.kept() {
            let _ = writeln!(
                out,
                "<tr><td>{}<td>{}<td class=\"n\">{}<td>{}<td>{}</tr>",
                self.time_text(life.made),
                kind_word(life),
                format_size(life.last_size),
                escape(&life.reason),
                escape(&life.plan_reason)
            );
        }
        out.push_str("</table>\n");
    }

    fn day_rows(&self, out: &mut String) {
        out.push_str(
            "<details>\n<summary>Day by day</summary>\n<table>\n<tr><th>day<th class=\"n\">made<th class=\"n\">gone\
             <th class=\"n\">exist<th>oldest<th class=\"n\">chain<th class=\"n\">space</tr>\n",
        );
        for day in &self.days {
            let _ = writeln!(
                out,
                "<tr><td>{}<td class=\"n\">{}<td class=\"n\">{}<td class=\"n\">{}<td>{}<td class=\"n\">{}\
                 <td class=\"n\">{}</tr>",
                day.date,
                day.made,
                day.dropped,
                day.count,
                day.oldest.map_or("–".to_owned(), |at| self.day_text(at)),
                day.chain_depth,
                format_size(day.bytes)
            );
        }
        out.push_str("</table>\n</details>\n");
    }
}
