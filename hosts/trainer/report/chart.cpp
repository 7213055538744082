#include "hosts/trainer/report/chart.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "hosts/trainer/report/format.h"

namespace tenon::trainer::html {
namespace {

constexpr double kUnits = 1000;   // of the drawing area in both directions
constexpr size_t kColumns = 400;  // more than this is finer than a screen shows
constexpr size_t kMostMarks = 400;

struct Range {
  double low = 0, high = 0;
  bool empty = true;

  void add(double v) {
    if (!std::isfinite(v)) return;
    low = empty ? v : std::min(low, v), high = empty ? v : std::max(high, v);
    empty = false;
  }
  void widen(double share) {
    double by = (high - low) * share;
    if (by == 0) by = low == 0 ? 1 : std::abs(low) * 0.1;
    low -= by, high += by;
  }
  double place(double v) const { return high > low ? (v - low) / (high - low) : 0.5; }
};

std::string fixed(double v, int decimals = 1) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", decimals, v);
  return text;
}
std::string share(double v) {
  return fixed(100 * v, 2) + "%";
}

struct Frame {
  Range x, y;
  std::string at(const Point& p) const {
    return fixed(kUnits * x.place(p.x)) + " " + fixed(kUnits * (1 - y.place(p.y)));
  }
  std::string horizontal(double v) const {
    const std::string h = fixed(kUnits * (1 - y.place(v)));
    return "<path class=\"grid\" d=\"M0 " + h + "H1000\"/>";
  }
  // The widest label stands in the flow, unseen, and gives the column its width.
  std::string y_labels(const std::vector<double>& at) const {
    const std::vector<std::string> texts = axis(at);
    std::string out = "<div class=\"ys\">", widest;
    for (size_t i = 0; i < at.size(); ++i) {
      out += "<span style=\"bottom:" + share(y.place(at[i])) + "\">" + texts[i] + "</span>";
      if (texts[i].size() > widest.size()) widest = texts[i];
    }
    return out + "<i>" + widest + "</i></div>";
  }
  std::string x_labels(const std::vector<double>& at, double unit) const {
    std::vector<double> in_units = at;
    for (double& v : in_units) v /= unit;
    const std::vector<std::string> texts = axis(in_units);
    std::string out = "<div class=\"xs\">";
    for (size_t i = 0; i < at.size(); ++i)
      out += "<span style=\"left:" + share(x.place(at[i])) + "\">" + texts[i] + "</span>";
    return out + "</div>";
  }
};

// One path; a point between two gaps is drawn as a dot would be.
std::string line(const Frame& frame, const Series& s) {
  std::string d;
  bool open = false;
  for (size_t i = 0; i < s.points.size(); ++i) {
    if (!std::isfinite(s.points[i].y)) {
      open = false;
      continue;
    }
    d += (open ? "L" : "M") + frame.at(s.points[i]);
    const bool alone = !open && (i + 1 == s.points.size() || !std::isfinite(s.points[i + 1].y));
    if (alone) d += "h0";
    open = true;
  }
  return d.empty() ? "" : "<path class=\"line " + s.style + "\" d=\"" + d + "\"/>";
}

std::string dots(const Frame& frame, const Series& s, const Formatter& format) {
  std::string out;
  for (const Point& p : s.points)
    if (std::isfinite(p.y))
      out += "<path class=\"dot " + s.style + "\" d=\"M" + frame.at(p) + "h0\"><title>" +
             escape(s.name + ", step " + whole(std::llround(p.x)) + ": " + format(p.y)) + "</title></path>";
  return out;
}

std::string legend(const LineChart& chart) {
  std::string out;
  if (chart.series.size() + (chart.marks.empty() ? 0 : 1) < 2) return out;
  for (const Series& s : chart.series)
    out +=
        "<span class=\"key\"><i class=\"" + s.style + (s.dots ? " round" : "") + "\"></i>" + escape(s.name) + "</span>";
  if (!chart.marks.empty()) out += "<span class=\"key\"><i class=\"skip\"></i>" + escape(chart.marks_name) + "</span>";
  return "<span class=\"legend\">" + out + "</span>";
}

}  // namespace

std::string line_chart(const LineChart& chart) {
  Frame frame;
  for (const Series& s : chart.series)
    for (const Point& p : s.points)
      if (std::isfinite(p.y)) frame.x.add(p.x), frame.y.add(p.y);
  if (frame.y.empty) return "";
  for (const double m : chart.marks) frame.x.add(m);
  const bool one_step = frame.x.high == frame.x.low;
  const double only = frame.x.low;
  if (one_step) frame.x.widen(0);
  frame.y.widen(0.06);
  if (chart.from_zero) frame.y.low = 0;
  const std::vector<double> y_ticks = ticks(frame.y.low, frame.y.high, chart.wide ? 6 : 4);
  std::vector<double> x_ticks = ticks(frame.x.low, frame.x.high, chart.wide ? 7 : 4);
  std::erase_if(x_ticks, [](double v) { return v != std::floor(v); });  // steps are whole
  if (one_step) x_ticks = {only};

  std::string svg = "<svg viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"" +
                    escape(chart.title) + "\">";
  for (const double v : y_ticks) svg += frame.horizontal(v);
  const size_t every = chart.marks.size() / kMostMarks + 1;
  for (size_t i = 0; i < chart.marks.size(); i += every) {
    const std::string x = fixed(kUnits * frame.x.place(chart.marks[i]));
    svg += "<path class=\"skip\" d=\"M" + x + " 1000V965\"/>";
  }
  for (const Series& s : chart.series) {
    Series drawn = s;
    drawn.points = thinned(s.points, kColumns);
    if (s.line) svg += line(frame, drawn);
    if (s.dots) svg += dots(frame, drawn, chart.format);
  }
  svg += "</svg>";
  const std::string unit = chart.unit.empty() ? "" : " <small>" + escape(chart.unit) + "</small>";
  return "<figure class=\"" + std::string(chart.wide ? "chart wide" : "chart") + "\"><figcaption><b>" +
         escape(chart.title) + unit + "</b>" + legend(chart) + "</figcaption><div class=\"plot\">" +
         frame.y_labels(y_ticks) + "<div class=\"area\">" + svg + "</div>" + frame.x_labels(x_ticks, 1) +
         "</div></figure>";
}

std::string paired_bars(const std::vector<Pair>& pairs, const Formatter& format) {
  double most = 0;
  for (const Pair& p : pairs) most = std::max({most, p.planned, p.measured});
  if (!(most > 0)) return "";
  const auto bar = [&](const char* kind, double v) {
    return "<div class=\"bar\"><svg role=\"img\" aria-label=\"" + std::string(kind) + "\"><rect class=\"" + kind +
           "\" width=\"" + share(v / most * 0.999) + "\" height=\"100%\" rx=\"3\"/></svg></div><span class=\"value\">" +
           escape(format(v)) + "</span>";
  };
  std::string out;
  for (const Pair& p : pairs)
    out += "<div class=\"pair\"><span class=\"name\">" + escape(p.name) + "</span><div class=\"bars\">" +
           bar("planned", p.planned) + bar("measured", p.measured) + "</div></div>";
  return out;
}

std::string scatter_chart(const ScatterChart& chart) {
  Frame frame;
  for (const Mark& m : chart.marks) frame.x.add(m.x), frame.y.add(m.y);
  if (frame.x.empty || frame.y.empty) return "";
  frame.x.widen(0.08), frame.y.widen(0.1);
  frame.x.low = std::max(frame.x.low, 0.0);
  std::vector<double> x_ticks = ticks(frame.x.low / chart.x_unit, frame.x.high / chart.x_unit, 5);
  for (double& v : x_ticks) v *= chart.x_unit;
  const std::vector<double> y_ticks = ticks(frame.y.low, frame.y.high, 5);
  std::string svg = "<svg viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"" +
                    escape(chart.title) + "\">";
  for (const double v : y_ticks) svg += frame.horizontal(v);
  std::string d;
  for (const Point& p : chart.front) {
    const std::string y = fixed(kUnits * (1 - frame.y.place(p.y))), x = fixed(kUnits * frame.x.place(p.x));
    d += d.empty() ? "M" + x + " " + y : "H" + x + "V" + y;
  }
  if (!d.empty()) svg += "<path class=\"line front\" d=\"" + d + "\"/>";
  svg += "</svg>";
  for (const Mark& m : chart.marks)
    svg += "<span class=\"mark" + std::string(m.shade < 0.5 ? "" : " fast") +
           "\" style=\"left:" + share(frame.x.place(m.x)) + ";bottom:" + share(frame.y.place(m.y)) +
           ";--shade:" + fixed(100 * m.shade) + "%\" title=\"" + escape(m.hint) + "\">" + escape(m.label) + "</span>";
  return "<figure class=\"chart wide tall\"><figcaption><b>" + escape(chart.title) +
         "</b><span class=\"legend\"><span class=\"key\"><i class=\"front\"></i>best for its memory</span><span "
         "class=\"key\">slow <i class=\"ramp\"></i> "
         "fast</span></span></figcaption><p class=\"axis\">" +
         escape(chart.y_name) + "</p><div class=\"plot\">" + frame.y_labels(y_ticks) + "<div class=\"area\">" + svg +
         "</div>" + frame.x_labels(x_ticks, chart.x_unit) + "</div><p class=\"axis right\">" + escape(chart.x_name) +
         "</p></figure>";
}

}  // namespace tenon::trainer::html
