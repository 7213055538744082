#include "hosts/trainer/report/comparison.h"

#include <gtest/gtest.h>

#include <cmath>

#include "page.h"

namespace tenon::trainer {
namespace {

const std::vector<ComparisonRow> kRows = {{"adamw", 2.1, 8.2, 2000, 1000, 10, ""},
                                          {"galore", 2.2, 9.0, 1000, 500, 20, ""},
                                          {"sgd", 2.7, 15, 1500, 2000, 5, ""},
                                          {"muon", kUnknown, kUnknown, 0, kUnknown, kUnknown, "muon needs <2 GiB>"}};

TEST(ParetoFront, HasWhatNothingBeatsInBoth) {
  EXPECT_EQ(pareto_front(kRows), (std::vector<bool>{true, true, false, false}));
  std::vector<ComparisonRow> rows = kRows;
  rows.push_back({"galore again", 2.2, 9.0, 1000, 500, 20, ""});  // equal rows do not beat each other
  rows.push_back({"as small", 2.3, 9.0, 1000, 500, 20, ""});
  rows.push_back({"as good", 2.1, 9.0, 3000, 500, 20, ""});
  rows.push_back({"not a number", NAN, 9.0, 1, 500, 20, ""});
  EXPECT_EQ(pareto_front(rows), (std::vector<bool>{true, true, false, false, true, false, false, false}));
}

TEST(Comparison, ShowsEveryMixInTheTableAndTheRunOnesInTheChart) {
  const std::string page = html_comparison(kRows, {{"model", "tiny"}});
  EXPECT_EQ(times(page, "<tr"), 6u);  // heading, four mixes, what they have in common
  EXPECT_EQ(times(page, "<span class=\"mark\"") + times(page, "<span class=\"mark fast\""), 3u);
  EXPECT_TRUE(has(page, "muon needs &lt;2 GiB&gt;"));
  EXPECT_TRUE(has(page, "<td class=\"n best\">2.100</td>"));
  EXPECT_TRUE(has(page, "<td class=\"n best\">1,000\u00a0B</td>"));
  EXPECT_TRUE(has(page, "<b>galore</b>"));
  EXPECT_FALSE(has(page, "<b>sgd</b>"));
  EXPECT_TRUE(has(page, "tiny"));
  EXPECT_FALSE(has(page.substr(page.find("<body>")), "nan"));
}

TEST(Comparison, ColoursBySpeedFromSlowestToFastest) {
  const std::string page = html_comparison(kRows);
  EXPECT_TRUE(has(page, "--shade:0.0%\" title=\"galore"));
  EXPECT_TRUE(has(page, "--shade:50.0%\" title=\"adamw"));
  EXPECT_TRUE(has(page, "--shade:100.0%\" title=\"sgd"));
}

TEST(Comparison, IsAPictureThatStandsAlone) {
  const std::string svg = svg_comparison(kRows, "A & B");
  EXPECT_EQ(times(svg, "<circle"), 3u);  // of the mixes that ran
  EXPECT_TRUE(has(svg, "xmlns=\"http://www.w3.org/2000/svg\"") && has(svg, "A &amp; B") && svg.ends_with("</svg>\n"));
  EXPECT_TRUE(has(svg, "1  adamw  2.100") && has(svg, "3  sgd  2.700"));
  EXPECT_FALSE(has(svg, "muon") || has(svg, "nan") || has(svg, "inf"));
  EXPECT_EQ(times(svg, "class=\"f\" d=\"M"), 1u);  // the front, from galore to adamw
  const std::string one = svg_comparison({kRows[0]}, "one");
  EXPECT_TRUE(has(one, "<circle") && !has(one, "nan"));
  EXPECT_EQ(svg_comparison({kRows[3]}, "none"), "");
}

TEST(Comparison, EscapesLabels) {
  const std::string page = html_comparison({{"<b>\"x\"", 2, 7, 1000, 10, 1, ""}}, {{"<i>", "<u>"}});
  EXPECT_FALSE(has(page, "<b>\"x\""));
  EXPECT_TRUE(has(page, "&lt;b&gt;&quot;x&quot;"));
  EXPECT_FALSE(has(page, "<u>"));
}

TEST(Comparison, OfNothingOrOnlyFailuresIsStillAPage) {
  EXPECT_TRUE(has(html_comparison({}), "No mix was run."));
  const std::string page = html_comparison({kRows[3]});
  EXPECT_FALSE(has(page, "<svg"));
  EXPECT_TRUE(has(page, "One mix"));
}

}  // namespace
}  // namespace tenon::trainer
