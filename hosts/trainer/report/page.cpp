#include "hosts/trainer/report/page.h"

#include "hosts/trainer/report/format.h"

namespace tenon::trainer::html {
namespace {

// Colours are told apart by people with any kind of colour vision, on both grounds.
constexpr const char* kStyle = R"(
:root{color-scheme:light dark;--page:#f3f2ee;--card:#fdfdfb;--line:#e4e2da;--ink:#16150f;--soft:#5d5b52;--faint:#8b897e;
--blue:#2a6fdb;--orange:#d9580f;--green:#12875a;--violet:#7a4fd0;--red:#c8322b;--planned:#c9c6ba;--slow:#c2daf9;--fast:#0f3f86;--on-slow:#0d2a55;--on-fast:#fff}
@media (prefers-color-scheme:dark){:root{--page:#121211;--card:#1c1c1a;--line:#32312d;--ink:#f2f1ea;--soft:#b3b1a6;--faint:#87857b;
--blue:#5b9bf3;--orange:#f28a4b;--green:#3dbb8a;--violet:#a98bee;--red:#f0716a;--planned:#55534b;--slow:#1f4d8c;--fast:#bcd8fb;--on-slow:#e6f0fd;--on-fast:#0c2547}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif;-webkit-text-size-adjust:100%}
main{max-width:1080px;margin:0 auto;padding:40px 24px 64px}
header{margin-bottom:28px}
.over{margin:0 0 6px;font-size:12px;letter-spacing:.09em;text-transform:uppercase;color:var(--faint)}
h1{margin:0;font-size:32px;line-height:1.2;letter-spacing:-.015em;font-weight:650;overflow-wrap:anywhere}
.about{margin:8px 0 0;color:var(--soft);overflow-wrap:anywhere}
.about b{font-weight:550;color:var(--ink)}
h2{margin:44px 0 14px;font-size:19px;font-weight:620;letter-spacing:-.01em}
.chips{display:flex;flex-wrap:wrap;gap:8px;margin:16px 0 0;padding:0;list-style:none}
.chips li{background:var(--card);border:1px solid var(--line);border-radius:99px;padding:3px 12px;font-size:13px;overflow-wrap:anywhere}
.chips span{color:var(--faint);margin-right:6px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:12px}
.tile,.chart,.card{background:var(--card);border:1px solid var(--line);border-radius:12px;margin:0}
.tile{padding:14px 16px}
.tile .name{font-size:13px;color:var(--soft)}
.tile .value{font-size:27px;line-height:1.25;font-weight:620;letter-spacing:-.02em;white-space:nowrap}
.tile .detail{font-size:13px;color:var(--faint)}
.charts{display:grid;grid-template-columns:1fr 1fr;gap:12px;margin-top:12px}
.chart{padding:16px 18px 12px;min-width:0}
.wide{grid-column:1/-1}
figcaption{display:flex;flex-wrap:wrap;justify-content:space-between;gap:4px 18px;margin-bottom:14px}
figcaption b{font-weight:600}
small{font-size:13px;font-weight:400;color:var(--faint)}
.legend{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:13px;color:var(--soft)}
.key{display:inline-flex;align-items:center;gap:7px}
.key i{width:16px;height:3px;border-radius:2px;background:var(--c)}
.key i.raw{opacity:.4}
.key i.round{width:9px;height:9px;border-radius:50%}
.key i.bars{height:10px;width:12px}
.key i.skip{width:2px;height:11px;background:var(--red)}
.key i.ramp{width:64px;height:9px;background:linear-gradient(90deg in oklab,var(--slow),var(--fast))}
.plot{display:grid;grid-template-columns:auto 1fr;grid-template-rows:170px 22px}
.wide .plot{grid-template-rows:300px 22px}
.tall .plot{grid-template-rows:380px 22px}
.ys{position:relative;grid-row:1}.ys i{visibility:hidden;font-style:normal;font-size:12px;padding-right:10px;font-variant-numeric:tabular-nums}
.ys span{position:absolute;right:9px;transform:translateY(50%);font-size:12px;color:var(--faint);white-space:nowrap;font-variant-numeric:tabular-nums}
.xs{position:relative;grid-column:2}
.xs span{position:absolute;top:5px;transform:translateX(-50%);font-size:12px;color:var(--faint);white-space:nowrap;font-variant-numeric:tabular-nums}
.xs span:last-child{max-width:none}
.area{position:relative;min-width:0}
.area svg{position:absolute;inset:0;width:100%;height:100%;overflow:visible}
path{fill:none;vector-effect:non-scaling-stroke;stroke-linecap:round;stroke-linejoin:round}
.grid{stroke:var(--line);stroke-width:1}
.line{stroke:var(--c);stroke-width:2}
.line.raw{stroke-width:1;opacity:.38}
.dot{stroke:var(--c);stroke-width:8}
path.skip{stroke:var(--red);stroke-width:1.5;stroke-linecap:butt}
.loss{--c:var(--blue)}.heldout{--c:var(--orange)}.speed{--c:var(--green)}.rate{--c:var(--violet)}.norm{--c:var(--soft)}.front{--c:var(--faint)}
.line.front{stroke-dasharray:5 4;stroke-width:1.5}
.measured{--c:var(--blue)}.planned{--c:var(--planned)}
rect{fill:var(--c)}
.pair{display:grid;grid-template-columns:minmax(92px,150px) 1fr;gap:12px;align-items:center;padding:8px 0;border-top:1px solid var(--line)}
.pair:first-of-type{border-top:0}
.pair .name{overflow-wrap:anywhere}
.bars{display:grid;grid-template-columns:1fr 92px;gap:3px 10px;align-items:center}
.bar{height:11px}.bar svg{display:block;width:100%;height:100%}
.value{font-size:13px;text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums;line-height:1.2}
.tile .value{text-align:left}
.mark{position:absolute;transform:translate(-50%,50%);min-width:26px;height:26px;padding:0 6px;border-radius:13px;font-size:13px;font-weight:600;line-height:26px;text-align:center;
background:color-mix(in oklab,var(--fast) var(--shade),var(--slow));color:var(--on-slow);box-shadow:0 0 0 2px var(--card);cursor:default}
.mark.fast{color:var(--on-fast)}
.mark.inline{display:inline-block;position:static;transform:none;box-shadow:none}
.mark.none{background:var(--line);color:var(--soft)}
.axis{margin:-4px 0 8px;font-size:13px;color:var(--faint)}
.axis.right{margin:4px 0 4px;text-align:right}
.card{padding:16px 18px;margin-top:12px;min-width:0}
.card h3{margin:0 0 8px;font-size:13px;font-weight:550;color:var(--soft)}
.sample{margin:0;white-space:pre-wrap;overflow-wrap:anywhere}
.sample .prompt{color:var(--faint)}
.samples{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:12px}
.samples .card{margin:0}
.notes{margin:0 0 12px;padding:12px 18px;list-style:none;border-left:4px solid var(--orange)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px}
td,th{padding:7px 14px 7px 0;text-align:left;vertical-align:top;border-top:1px solid var(--line);overflow-wrap:anywhere}
tr:first-child>td,tr:first-child>th{border-top:0}
th{font-weight:450;color:var(--soft)}
.names th{width:34%}
.rows th{font-size:13px;white-space:nowrap}
.rows td{border-top:1px solid var(--line);vertical-align:middle;font-variant-numeric:tabular-nums}
.rows .n{text-align:right;white-space:nowrap}
.rows .best{font-weight:650}
.rows .label{min-width:150px}
.failed td{color:var(--soft)}
pre{margin:0;white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.55 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.nothing{color:var(--soft);margin:0}
footer{margin-top:44px;font-size:13px;color:var(--faint)}
@media (max-width:720px){main{padding:24px 14px 40px}h1{font-size:25px}.charts{grid-template-columns:minmax(0,1fr)}.wide .plot{grid-template-rows:230px 22px}.tall .plot{grid-template-rows:300px 22px}
.tiles{grid-template-columns:repeat(auto-fit,minmax(140px,1fr))}.tile .value{font-size:23px}.pair{grid-template-columns:1fr;gap:4px}.chart,.card{padding-left:14px;padding-right:14px}}
@media print{body{background:#fff}.tile,.chart,.card{break-inside:avoid}}
)";

}  // namespace

std::string page(const std::string& title, const std::string& body) {
  return "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
         "content=\"width=device-width,initial-scale=1\"><title>" +
         escape(title) + "</title><style>" + kStyle + "</style></head>\n<body><main>\n" + body +
         "\n</main></body></html>\n";
}

std::string section(const std::string& heading, const std::string& content) {
  return content.empty() ? "" : "<h2>" + escape(heading) + "</h2>\n" + content + "\n";
}

std::string tile(const std::string& name, const std::string& value, const std::string& detail) {
  return "<div class=\"tile\"><div class=\"name\">" + escape(name) + "</div><div class=\"value\">" + escape(value) +
         "</div><div class=\"detail\">" + escape(detail) + "</div></div>";
}

std::string definitions(const std::vector<std::pair<std::string, std::string>>& pairs) {
  std::string rows;
  for (const auto& [name, text] : pairs)
    if (!text.empty()) rows += "<tr><th>" + escape(name) + "</th><td>" + escape(text) + "</td></tr>";
  return rows.empty() ? "" : "<div class=\"card\"><table class=\"names\">" + rows + "</table></div>";
}

}  // namespace tenon::trainer::html
