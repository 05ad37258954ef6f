#include "experiments/html_page.h"

#include <fmt/format.h>

#include <algorithm>

#include "experiments/format_text.h"

namespace cbq {
namespace {

/// Colours as variables, so that the dark page is the same rules with other values. Tables scroll
/// within their own frame and keep their first column in sight: on a telephone the page itself
/// never scrolls sideways. There the lines of a trend become a block each, so that its verdict is
/// in sight.
constexpr const char* style = R"css(
:root { color-scheme: light dark; --back: #ffffff; --text: #1c2126; --faint: #5c6670; --line: #d5dade;
  --stripe: #f4f6f8; --agree: #1a6e2e; --disagree: #b3261e; --open: #5c6670; --link: #1f5fa8; }
@media (prefers-color-scheme: dark) { :root { --back: #15191d; --text: #e3e7ea; --faint: #9aa4ad;
  --line: #353d44; --stripe: #1d2328; --agree: #6fce86; --disagree: #ff8a80; --open: #9aa4ad;
  --link: #86b7f2; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1320px; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .3rem; }
h3 { font-size: .95rem; margin: 1.2rem 0 .3rem; color: var(--faint); }
a { color: var(--link); }
nav ul, ul.remarks { padding-left: 1.2rem; margin: .4rem 0; }
ul.remarks { font-size: .88rem; overflow-wrap: anywhere; }
.counts { display: flex; flex-wrap: wrap; gap: .75rem; margin: .75rem 0; }
.counts div { border: 1px solid var(--line); border-radius: 6px; padding: .4rem .9rem; min-width: 7rem; }
.counts b { display: block; font-size: 1.4rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .25rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { color: var(--faint); font-weight: 600; background: var(--stripe); }
th.group { text-align: left; border-left: 1px solid var(--line); }
th.first { border-left: 1px solid var(--line); } td.first { border-left: 1px solid var(--line); }
th.label, td.label, .left { text-align: left; }
th.label, td.label { position: sticky; left: 0; background: var(--back); z-index: 1; }
thead th.label { background: var(--stripe); }
tr.rule > * { border-top: 2px solid var(--faint); }
tr.claim > td.label { font-weight: 600; }
.agree { color: var(--agree); } .disagree { color: var(--disagree); font-weight: 700; }
.open { color: var(--open); }
.middle { text-align: center; } tr.step > td.label { padding-left: 1.6rem; }
svg { display: block; margin: 0 auto; } svg line.zero { stroke: var(--faint); stroke-dasharray: 2 2; }
svg .agree { stroke: var(--agree); fill: var(--agree); }
svg .disagree { stroke: var(--disagree); fill: var(--disagree); }
svg .open { stroke: var(--open); fill: var(--open); }
.panels { display: flex; flex-wrap: wrap; gap: 1rem; } .panels svg { flex: 0 1 410px; min-width: 0;
  width: 100%; max-width: 420px; height: auto; margin: 0; color: var(--text); }
@media (max-width: 600px) { main { padding: 1rem .6rem 3rem; } h1 { font-size: 1.3rem; }
  th, td { padding: .25rem .45rem; }
  th.label, td.label { min-width: 7.5rem; max-width: 46vw; white-space: normal;
    overflow-wrap: break-word; }
  table.trends thead, table.trends tr.claim td.rest { display: none; }
  table.trends tr { display: grid; grid-template-columns: 1fr auto; padding: .35rem 0;
    border-bottom: 1px solid var(--line); }
  table.trends td { border: 0; padding: .05rem .6rem; text-align: left; white-space: normal; }
  table.trends td.label { grid-column: 1 / -1; max-width: none; font-weight: 600; position: static; }
  table.trends td.left { order: 1; } table.trends td.verdict { order: 2; text-align: right; }
  table.trends td.paper { order: 3; } table.trends td.paper::before { content: "paper: "; }
  table.trends td.ours { order: 4; text-align: right; }
  table.trends td.interval { order: 5; grid-column: 1 / -1; } }
)css";

std::string head_of(const TextTable& grid) {
  std::string titles =
      "<tr><th class=\"label\" rowspan=\"2\">" + html_text(grid.label_head) + "</th>";
  std::string heads = "<tr>";
  for (const ColumnGroup& group : grid.groups) {
    titles += fmt::format("<th class=\"group\" colspan=\"{}\">{}</th>", group.heads.size(),
                          html_text(group.title));
    for (size_t c = 0; c < group.heads.size(); ++c) {
      heads +=
          fmt::format("<th{}>{}</th>", c == 0 ? " class=\"first\"" : "", html_text(group.heads[c]));
    }
  }
  return "<thead>" + titles + "</tr>\n" + heads + "</tr></thead>\n";
}

}  // namespace

std::string html_table(const TextTable& grid) {
  std::string out = "<div class=\"scroll\"><table>\n" + head_of(grid) + "<tbody>\n";
  for (size_t r = 0; r < grid.labels.size(); ++r) {
    const bool rule = std::count(grid.rules.begin(), grid.rules.end(), r) > 0;
    out += fmt::format("<tr{}><td class=\"label\">{}</td>", rule ? " class=\"rule\"" : "",
                       html_text(grid.labels[r]));
    for (const ColumnGroup& group : grid.groups) {
      for (size_t c = 0; c < group.heads.size(); ++c) {
        const bool filled = r < group.rows.size() && c < group.rows[r].size();
        out += fmt::format("<td{}>{}</td>", c == 0 ? " class=\"first\"" : "",
                           filled ? html_text(group.rows[r][c]) : "");
      }
    }
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

std::string html_page(const std::string& title, const std::string& heading,
                      const std::string& body) {
  std::string out =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";
  out += fmt::format("<title>{}</title>\n<style>", html_text(title));
  out += style;
  out += fmt::format("</style>\n</head>\n<body>\n<main>\n<h1>{}</h1>\n", html_text(heading));
  return out + body + "</main>\n</body>\n</html>\n";
}

}  // namespace cbq
