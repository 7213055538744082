#include "hosts/trainer/report/report.h"

#include <algorithm>
#include <cmath>

#include "hosts/trainer/report/chart.h"
#include "hosts/trainer/report/format.h"
#include "hosts/trainer/report/page.h"

namespace tenon::trainer {
namespace {

using namespace html;

std::string compact(double x) {
  return number(x, 4);
}

std::vector<Point> points_of(const ReportData& d, double ReportStep::*value) {
  std::vector<Point> out;
  for (const ReportStep& s : d.steps) out.push_back({double(s.step), s.skipped ? kUnknown : s.*value});
  return out;
}
std::vector<Point> points_of(const ReportData& d, double ReportEvaluation::*value) {
  std::vector<Point> out;
  for (const ReportEvaluation& e : d.evaluations) out.push_back({double(e.step), e.*value});
  return out;
}
std::vector<Point> finite(std::vector<Point> points) {
  std::erase_if(points, [](const Point& p) { return !std::isfinite(p.y); });
  return points;
}
double median(const std::vector<Point>& points) {
  std::vector<double> values;
  for (const Point& p : points) values.push_back(p.y);
  if (values.empty()) return kUnknown;
  std::nth_element(values.begin(), values.begin() + std::ptrdiff_t(values.size() / 2), values.end());
  return values[values.size() / 2];
}
double window_of(size_t steps) {
  return std::clamp(double(steps) / 25, 1.0, 200.0);
}

std::string head(const ReportData& d) {
  std::string about;
  for (const auto& [text, before] :
       {std::pair<const std::string&, const char*>{d.model, ""}, {d.data, " on "}, {d.device, " with "}})
    if (!text.empty()) about += (about.empty() ? "" : before) + ("<b>" + escape(text) + "</b>");
  std::string chips;
  for (const auto& [kind, spec] : d.mix)
    if (!spec.empty()) chips += "<li><span>" + escape(kind) + "</span>" + escape(spec) + "</li>";
  return "<header><p class=\"over\">Tenon training run</p><h1>" + escape(d.title.empty() ? "Training run" : d.title) +
         "</h1>" + (about.empty() ? "" : "<p class=\"about\">" + about + "</p>") +
         (chips.empty() ? "" : "<ul class=\"chips\">" + chips + "</ul>") + "</header>\n";
}

std::string tiles(const ReportData& d) {
  std::string out;
  const std::vector<Point> loss = finite(points_of(d, &ReportStep::loss)),
                           speed = finite(points_of(d, &ReportStep::tokens_per_second));
  const std::vector<Point> held_out = finite(points_of(d, &ReportEvaluation::perplexity));
  if (!loss.empty()) {
    const double now = smoothed(loss, window_of(loss.size())).back().y;
    out += tile("Training loss", number(now), loss.size() > 1 ? number(loss.front().y) + " at the start" : "one step");
  }
  if (!held_out.empty())
    out += tile("Held-out perplexity", number(held_out.back().y),
                held_out.size() > 1 ? number(held_out.front().y) + " at the start" : "once");
  if (d.peak_total) {
    std::string detail;
    if (d.planned_total) {
      const double off = double(d.peak_total) / double(d.planned_total) - 1;
      detail =
          bytes(double(d.planned_total)) + " planned, " + (off < 0 ? "\xE2\x88\x92" : "+") + percent(std::abs(off));
    }
    out += tile("Peak memory", bytes(double(d.peak_total)), detail);
  }
  if (!speed.empty()) {
    const auto last =
        std::find_if(d.steps.rbegin(), d.steps.rend(), [](const ReportStep& s) { return std::isfinite(s.seconds); });
    out += tile("Tokens per second", number(median(speed)),
                whole(d.steps.back().step) + (d.steps.back().step == 1 ? " step" : " steps") +
                    (last == d.steps.rend() ? "" : " in " + duration(last->seconds)));
  }
  if (d.trainable_parameters)
    out += tile("Trainable parameters", count(double(d.trainable_parameters)),
                d.total_parameters ? percent(double(d.trainable_parameters) / double(d.total_parameters)) + " of " +
                                         count(double(d.total_parameters))
                                   : "");
  return out.empty() ? "" : "<div class=\"tiles\">" + out + "</div>\n";
}

// What was measured at every step; where there are many, faintly, with its average over it.
std::vector<Series> trend(const char* name, const std::string& style, std::vector<Point> points) {
  const size_t n = finite(points).size();
  if (n <= 20) return {{name, style, std::move(points), true, true}};
  std::vector<Point> average = smoothed(points, window_of(n));
  return {{"every step", "raw " + style, std::move(points)}, {"smoothed", style, std::move(average)}};
}

std::string charts(const ReportData& d) {
  LineChart main{
      .title = "Loss", .unit = "nats per token", .marks_name = "skipped step", .format = compact, .wide = true};
  main.series = trend("training", "loss", points_of(d, &ReportStep::loss));
  if (!d.evaluations.empty())
    main.series.push_back({"held out", "heldout", points_of(d, &ReportEvaluation::loss), true, true});
  for (const ReportStep& s : d.steps)
    if (s.skipped) main.marks.push_back(double(s.step));

  const auto one = [](const char* title, const char* unit, std::vector<Series> series, bool from_zero) {
    return line_chart(
        {.title = title, .unit = unit, .series = std::move(series), .format = compact, .from_zero = from_zero});
  };
  std::string out = line_chart(main);
  const std::vector<Point> rate = points_of(d, &ReportStep::lr);
  out += one("Perplexity", "held out",
             {{"held out", "heldout", points_of(d, &ReportEvaluation::perplexity), true, true}}, false);
  out += one("Throughput", "tokens per second",
             trend("measured", "speed", points_of(d, &ReportStep::tokens_per_second)), true);
  out += one("Learning rate", "", {{"learning rate", "rate", rate, true, finite(rate).size() == 1}}, true);
  out += one("Gradient norm", "before clipping", trend("measured", "norm", points_of(d, &ReportStep::grad_norm)), true);
  return out.empty() ? "" : "<div class=\"charts\">" + out + "</div>\n";
}

std::string memory(const ReportData& d) {
  std::vector<Pair> pairs;
  for (const ReportMemory& m : d.memory)
    if (m.planned_bytes || m.peak_bytes) pairs.push_back({m.category, double(m.planned_bytes), double(m.peak_bytes)});
  if (d.planned_total || d.peak_total) pairs.push_back({"all at once", double(d.planned_total), double(d.peak_total)});
  const std::string bars = paired_bars(pairs, bytes);
  if (bars.empty()) return "";
  return "<figure class=\"chart\"><figcaption><b>Peak by category</b><span class=\"legend\"><span class=\"key\"><i "
         "class=\"bars planned\"></i>planned "
         "before the run</span><span class=\"key\"><i class=\"bars measured\"></i>measured</span></span></figcaption>" +
         bars +
         (d.process_peak ? "<p class=\"axis\" style=\"margin:8px 0 2px\">The whole process peaked at " +
                               bytes(double(d.process_peak)) + ".</p>"
                         : "") +
         "</figure>";
}

std::string samples(const ReportData& d) {
  std::string out;
  for (const ReportSample& s : d.samples)
    out += "<div class=\"card\"><h3>" + escape(s.label) + "</h3><p class=\"sample\"><span class=\"prompt\">" +
           escape(s.prompt) + "</span>" + escape(s.text) + "</p></div>";
  return out.empty() ? "" : "<div class=\"samples\">" + out + "</div>";
}

std::string notes(const ReportData& d) {
  std::string out;
  for (const std::string& n : d.notes) out += "<li>" + escape(n) + "</li>";
  return out.empty() ? "" : "<ul class=\"card notes\">" + out + "</ul>\n";
}

}  // namespace

std::string html_report(const ReportData& d) {
  std::string body = head(d) + notes(d) + tiles(d);
  const std::string drawn = charts(d);
  body += drawn.empty() ? "<div class=\"card\"><p class=\"nothing\">No step was taken.</p></div>\n" : drawn;
  body += section("Memory", memory(d));
  body += section("What the model writes", samples(d));
  body += section("Settings", definitions(d.settings));
  if (!d.command_line.empty())
    body += section("Command", "<div class=\"card\"><pre>" + escape(d.command_line) + "</pre></div>");
  return page(d.title.empty() ? "Training run" : d.title, body);
}

}  // namespace tenon::trainer
