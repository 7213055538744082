#include "hosts/trainer/report/report.h"

#include <gtest/gtest.h>

#include <cmath>

#include "hosts/trainer/report/chart.h"
#include "hosts/trainer/report/format.h"
#include "page.h"

namespace tenon::trainer {
namespace {

// Every element that is opened is closed, in order; attributes are quoted; nothing is not a number in a coordinate.
void expect_well_formed(const std::string& page) {
  std::vector<std::string> open;
  for (size_t at = page.find('<'); at != std::string::npos; at = page.find('<', at + 1)) {
    const size_t end = page.find('>', at);
    ASSERT_NE(end, std::string::npos);
    const std::string tag = page.substr(at + 1, end - at - 1),
                      name = tag.substr(tag[0] == '/' ? 1 : 0, tag.find_first_of(" />", 1) - (tag[0] == '/' ? 1 : 0));
    if (tag[0] == '!' || name == "meta" || tag.back() == '/') continue;
    if (tag[0] != '/') {
      open.push_back(name);
    } else {
      ASSERT_FALSE(open.empty()) << tag;
      ASSERT_EQ(open.back(), tag.substr(1));
      open.pop_back();
    }
    ASSERT_EQ(times(tag, "\"") % 2, 0u) << tag;
  }
  EXPECT_TRUE(open.empty());
  const std::string body = page.substr(page.find("<body>"));
  for (const char* bad : {"nan", "inf", "http:", "https:", "<script", "url(", "@import"})
    EXPECT_FALSE(has(body, bad)) << bad;
}

ReportData run(int64_t steps) {
  ReportData d;
  d.title = "a run", d.model = "tiny";
  for (int64_t i = 1; i <= steps; ++i) d.steps.push_back({i, 2 + 1.0 / double(i), 1e-4, 0.5, 1000, double(i)});
  return d;
}

TEST(Report, HoldsWhatItWasGiven) {
  ReportData d = run(100);
  d.data = "stories.jsonl", d.device = "a CPU", d.command_line = "tenon train --model tiny";
  d.mix = {{"optimizer", "galore:rank=128"}, {"adapter", ""}};
  d.settings = {{"sequence length", "1,024"}, {"batch", "8"}};
  d.evaluations = {{0, 3, std::exp(3.0)}, {100, 2, std::exp(2.0)}};
  d.memory = {{"weights", 1 << 20, 2 << 20}, {"codec", 0, 0}};
  d.planned_total = 100 << 20, d.peak_total = 101 << 20, d.process_peak = uint64_t{1} << 30;
  d.total_parameters = 1000000, d.trainable_parameters = 25000;
  d.samples = {{"before", "Once", " upon"}};
  d.notes = {"step 7 was odd"};
  const std::string page = html_report(d);
  expect_well_formed(page);
  for (const char* text :
       {"a run", "stories.jsonl", "galore:rank=128", "sequence length", "tenon train --model tiny", ">7.389<",
        "20.09 at the start", "2.5\u00a0% of 1.00\u00a0M", "101\u00a0MiB", "100\u00a0MiB planned, +1.0\u00a0%",
        "1.00\u00a0GiB", "step 7 was odd", "held out, step 100: 2.000", "100 steps in 1\u00a0min\u00a040\u00a0s"})
    EXPECT_TRUE(has(page, text)) << text;
  EXPECT_FALSE(has(page, "codec")) << "a category without bytes says nothing";
  EXPECT_FALSE(has(page, ">adapter<"));
  EXPECT_LT(page.find("sequence length"), page.find("batch"));
}

TEST(Report, EscapesEveryText) {
  const std::string evil = "<script>alert(\"x\")</script>&'\x01";
  ReportData d = run(3);
  d.title = d.model = d.data = d.device = d.command_line = evil;
  d.mix = d.settings = {{evil, evil}};
  d.memory = {{evil, 1, 1}};
  d.samples = {{evil, evil, evil}};
  d.notes = {evil};
  const std::string page = html_report(d);
  expect_well_formed(page);
  EXPECT_FALSE(has(page, "alert(\"x\")"));
  EXPECT_EQ(times(page, "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;&#39;\uFFFD"), 15u);
}

TEST(Report, OfAnEmptyRunSaysSo) {
  const std::string page = html_report({});
  expect_well_formed(page);
  EXPECT_TRUE(has(page, "No step was taken."));
  EXPECT_FALSE(has(page, "<svg"));
  EXPECT_FALSE(has(page, "<h2>"));
}

TEST(Report, OfOneStepShowsDots) {
  ReportData d = run(1);
  d.evaluations = {{1, 2.5, 12.2}};
  const std::string page = html_report(d);
  expect_well_formed(page);
  EXPECT_EQ(times(page, "<path class=\"dot"), 6u);  // loss twice, perplexity, throughput, learning rate, norm
  EXPECT_TRUE(has(page, "1 step in 1.0\u00a0s"));
}

TEST(Report, LeavesGapsForWhatIsNotANumber) {
  ReportData d = run(10);
  for (const size_t i : {4u, 7u}) d.steps[i].loss = kUnknown, d.steps[i].skipped = true;
  d.steps[5].loss = INFINITY;
  d.evaluations = {{1, kUnknown, kUnknown}, {10, 2, INFINITY}};
  const std::string page = html_report(d);
  expect_well_formed(page);
  EXPECT_EQ(times(page, "<path class=\"skip\""), 2u);
  EXPECT_EQ(times(page, "<path class=\"dot loss\""), 7u);
  ReportData lost = run(5);
  for (ReportStep& s : lost.steps) s.loss = s.lr = s.grad_norm = s.tokens_per_second = s.seconds = kUnknown;
  EXPECT_TRUE(has(html_report(lost), "No step was taken."));
}

TEST(Report, OfALongRunIsThinned) {
  ReportData d = run(200000);
  for (ReportStep& s : d.steps) s.skipped = s.step % 10 == 0;
  d.steps[123456].loss = 9;
  for (int64_t i = 0; i < 5000; ++i) d.evaluations.push_back({i * 40, 2, 7});
  const std::string page = html_report(d);
  expect_well_formed(page);
  EXPECT_LT(page.size(), 600000u);
  EXPECT_GT(page.size(), 20000u);
}

TEST(Thinning, KeepsOrderEndsSpikesAndGaps) {
  std::vector<html::Point> points;
  for (int i = 0; i < 100000; ++i) points.push_back({double(i), std::sin(i * 0.001)});
  points[50001].y = 50, points[70001].y = -50, points[90001].y = kUnknown;
  const std::vector<html::Point> thin = html::thinned(points, 400);
  EXPECT_LE(thin.size(), 1200u);
  bool high = false, low = false, gap = false;
  for (size_t i = 0; i < thin.size(); ++i) {
    high = high || thin[i].y == 50, low = low || thin[i].y == -50, gap = gap || std::isnan(thin[i].y);
    EXPECT_LE(thin[i > 0 ? i - 1 : 0].x, thin[i].x);
  }
  EXPECT_TRUE(high && low && gap);
  EXPECT_EQ(html::thinned({points.begin(), points.begin() + 800}, 400).size(), 800u);
}

TEST(Smoothing, KeepsConstantsAndDoesNotLag) {
  std::vector<html::Point> flat, slope;
  for (int i = 0; i < 1000; ++i) flat.push_back({double(i), 3}), slope.push_back({double(i), double(i)});
  flat[10].y = kUnknown;
  const auto level = html::smoothed(flat, 50), line = html::smoothed(slope, 50);
  EXPECT_EQ(level.size(), 999u);
  for (const html::Point& p : level) EXPECT_NEAR(p.y, 3, 1e-9);
  for (size_t i = 300; i < 700; ++i) EXPECT_NEAR(line[i].y, double(i), 0.01);
}

TEST(Ticks, AreRoundAndInside) {
  EXPECT_EQ(html::ticks(0, 10, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(html::ticks(1.9, 3.6, 4), (std::vector<double>{2, 2.5, 3, 3.5}));
  EXPECT_EQ(html::ticks(5, 5, 4), std::vector<double>{5});
  EXPECT_EQ(html::axis({2, 2.5, 3}), (std::vector<std::string>{"2.0", "2.5", "3.0"}));
  EXPECT_EQ(html::axis({0, 1000, 2000}), (std::vector<std::string>{"0", "1,000", "2,000"}));
  EXPECT_EQ(html::axis({0, 1e-4, 2e-4}), (std::vector<std::string>{"0", "1e-04", "2e-04"}));
}

TEST(Numbers, AreWrittenForPeople) {
  EXPECT_EQ(html::number(3.14159), "3.142");
  EXPECT_EQ(html::number(12345.6), "12,346");
  EXPECT_EQ(html::number(-0.00001), "-1e-05");
  EXPECT_EQ(html::number(0), "0");
  EXPECT_EQ(html::number(NAN), "\u2013");
  EXPECT_EQ(html::whole(-1234567), "-1,234,567");
  EXPECT_EQ(html::bytes(0), "0\u00a0B");
  EXPECT_EQ(html::bytes(1536), "1.50\u00a0KiB");
  EXPECT_EQ(html::bytes(1048575), "1.00\u00a0MiB");
  EXPECT_EQ(html::count(134515008), "135\u00a0M");
  EXPECT_EQ(html::count(999), "999");
  EXPECT_EQ(html::duration(0.25), "0.2\u00a0s");
  EXPECT_EQ(html::duration(3725), "1\u00a0h\u00a02\u00a0min");
  EXPECT_EQ(html::duration(-1), "\u2013");
  EXPECT_EQ(html::percent(0.0363), "3.6\u00a0%");
  EXPECT_EQ(html::percent(0.0001), "0.01\u00a0%");
}

}  // namespace
}  // namespace tenon::trainer
