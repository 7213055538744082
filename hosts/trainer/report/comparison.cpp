#include "hosts/trainer/report/comparison.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "hosts/trainer/report/chart.h"
#include "hosts/trainer/report/format.h"
#include "hosts/trainer/report/page.h"

namespace tenon::trainer {
namespace {

using namespace html;

std::string chart(const std::vector<ComparisonRow>& rows, const std::vector<bool>& front,
                  const std::vector<double>& shade) {
  uint64_t most = 0;
  for (const ComparisonRow& r : rows)
    if (drawable(r)) most = std::max(most, r.peak_bytes);
  const bool large = most >= uint64_t{1} << 30;
  ScatterChart c{.title = "Loss and memory",
                 .x_name = std::string("peak memory, ") + (large ? "GiB" : "MiB") + " \xE2\x86\x92",
                 .y_name = "\xE2\x86\x91 loss, lower is better",
                 .x_unit = large ? 0x1p30 : 0x1p20};
  for (size_t i = 0; i < rows.size(); ++i) {
    const ComparisonRow& r = rows[i];
    if (!drawable(r)) continue;
    c.marks.push_back({double(r.peak_bytes), r.loss, shade[i], std::to_string(i + 1),
                       r.label + ": loss " + number(r.loss) + ", " + bytes(double(r.peak_bytes)) + ", " +
                           number(r.tokens_per_second) + " tokens/s"});
    if (front[i]) c.front.push_back({double(r.peak_bytes), r.loss});
  }
  std::sort(c.front.begin(), c.front.end(), [](const Point& a, const Point& b) { return a.x < b.x; });
  const std::string drawn = scatter_chart(c);
  return drawn.empty() ? "" : "<div class=\"charts\">" + drawn + "</div>\n";
}

std::string table(const std::vector<ComparisonRow>& rows, const std::vector<bool>& front,
                  const std::vector<double>& shade) {
  ComparisonRow best;
  double least = kUnknown, smallest_process = kUnknown;  // memory: accounted, and of the process
  for (const ComparisonRow& r : rows)
    if (r.error.empty()) {
      best.loss = std::fmin(best.loss, r.loss), best.perplexity = std::fmin(best.perplexity, r.perplexity);
      best.tokens_per_second = std::fmax(best.tokens_per_second, r.tokens_per_second),
      best.seconds = std::fmin(best.seconds, r.seconds);
      if (r.peak_bytes) least = std::fmin(least, double(r.peak_bytes));
      if (r.process_bytes) smallest_process = std::fmin(smallest_process, double(r.process_bytes));
    }
  std::string out;
  for (size_t i = 0; i < rows.size(); ++i) {
    const ComparisonRow& r = rows[i];
    const std::string name = "<td class=\"label\">" + escape(r.label) + "</td>";
    const std::string mark = "<td><span class=\"mark inline";
    if (!r.error.empty()) {
      out += "<tr class=\"failed\">" + mark + " none\">" + std::to_string(i + 1) + "</span></td>" + name +
             "<td colspan=\"6\">" + escape(r.error) + "</td></tr>";
      continue;
    }
    const auto cell = [](double value, double winner, const std::string& text) {
      return "<td class=\"n" + std::string(value == winner ? " best" : "") + "\">" + escape(text) + "</td>";
    };
    out += "<tr>" + mark + (shade[i] < 0.5 ? "" : " fast") + "\" style=\"--shade:" + number(100 * shade[i], 3) +
           "%\">" + std::to_string(i + 1) + "</span></td>" +
           (front[i] ? "<td class=\"label\"><b>" + escape(r.label) + "</b></td>" : name) +
           cell(r.loss, best.loss, number(r.loss)) + cell(r.perplexity, best.perplexity, number(r.perplexity)) +
           cell(double(r.peak_bytes), least, r.peak_bytes ? bytes(double(r.peak_bytes)) : number(kUnknown)) +
           cell(double(r.process_bytes), smallest_process, r.process_bytes ? bytes(double(r.process_bytes)) : number(kUnknown)) +
           cell(r.tokens_per_second, best.tokens_per_second, number(r.tokens_per_second)) +
           cell(r.seconds, best.seconds, duration(r.seconds)) + "</tr>";
  }
  return "<div class=\"card scroll\"><table class=\"rows\"><tr><th></th><th>mix</th><th class=\"n\">loss</th><th "
         "class=\"n\">perplexity</th><th "
         "class=\"n\">peak memory</th><th class=\"n\">process</th><th class=\"n\">tokens/s</th><th class=\"n\">time</th></tr>" +
         out + "</table></div>\n";
}

}  // namespace

bool drawable(const ComparisonRow& r) {
  return r.error.empty() && std::isfinite(r.loss) && r.peak_bytes > 0;
}

std::vector<double> speed_shades(const std::vector<ComparisonRow>& rows) {
  double slow = kUnknown, fast = kUnknown;
  const auto known = [](const ComparisonRow& r) {
    return r.error.empty() && std::isfinite(r.tokens_per_second) && r.tokens_per_second > 0;
  };
  for (const ComparisonRow& r : rows)
    if (known(r)) slow = std::fmin(slow, r.tokens_per_second), fast = std::fmax(fast, r.tokens_per_second);
  std::vector<double> out;
  for (const ComparisonRow& r : rows)
    out.push_back(known(r) && fast > slow ? std::log(r.tokens_per_second / slow) / std::log(fast / slow) : 0.0);
  return out;
}

std::vector<bool> pareto_front(const std::vector<ComparisonRow>& rows) {
  std::vector<size_t> order;
  for (size_t i = 0; i < rows.size(); ++i)
    if (drawable(rows[i])) order.push_back(i);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return rows[a].peak_bytes != rows[b].peak_bytes ? rows[a].peak_bytes < rows[b].peak_bytes
                                                    : rows[a].loss < rows[b].loss;
  });
  std::vector<bool> out(rows.size());
  const ComparisonRow* last = nullptr;
  for (const size_t i : order) {
    const bool equal = last && rows[i].loss == last->loss && rows[i].peak_bytes == last->peak_bytes;
    if (last && !equal && !(rows[i].loss < last->loss)) continue;
    out[i] = true, last = &rows[i];
  }
  return out;
}

std::string html_comparison(const std::vector<ComparisonRow>& rows, const std::vector<ComparisonSetting>& common) {
  const std::vector<bool> front = pareto_front(rows);
  const std::vector<double> shade = speed_shades(rows);
  const std::string title = rows.size() == 1 ? "One mix" : std::to_string(rows.size()) + " mixes side by side";
  std::string body = "<header><p class=\"over\">Tenon comparison</p><h1>" + escape(title) + "</h1></header>\n";
  if (rows.empty())
    return page("Comparison", body + "<div class=\"card\"><p class=\"nothing\">No mix was run.</p></div>\n");
  body += chart(rows, front, shade) + table(rows, front, shade);
  body +=
      "<p class=\"axis\" style=\"margin-top:10px\">Bold mixes are beaten by no other in both loss and memory; bold "
      "figures are the best of their column.</p>\n";
  return page("Comparison", body + section("In common", definitions(common)));
}

}  // namespace tenon::trainer
