// Several mixes side by side as one HTML page: a chart of loss against memory, and a table.
#pragma once

#include <string>
#include <vector>

#include "hosts/trainer/report/report.h"

namespace tenon::trainer {

struct ComparisonRow {
  std::string label;  // the mix
  double loss = kUnknown, perplexity = kUnknown;
  uint64_t peak_bytes = 0;
  double tokens_per_second = kUnknown, seconds = kUnknown;
  std::string error;  // one sentence; not empty: the mix did not run, and its numbers are not read
  uint64_t process_bytes = 0;  // most resident memory of the whole process
};

// What the mixes have in common: {"model", "SmolLM2-135M"}.
using ComparisonSetting = std::pair<std::string, std::string>;

std::string html_comparison(const std::vector<ComparisonRow>& rows, const std::vector<ComparisonSetting>& common = {});

// The same chart as a picture that stands alone, with the mixes by name below it: for a README. Empty when no row can be drawn.
std::string svg_comparison(const std::vector<ComparisonRow>& rows, const std::string& title);

// Whether it has a place in the chart: it ran, and its loss and peak are known.
bool drawable(const ComparisonRow& row);

// Which rows no other row beats in both loss and memory. Rows with an error, or without a loss or a peak, are none.
std::vector<bool> pareto_front(const std::vector<ComparisonRow>& rows);

// From 0 for the slowest to 1 for the fastest, by ratio: twice as fast is as far from either end.
std::vector<double> speed_shades(const std::vector<ComparisonRow>& rows);

}  // namespace tenon::trainer
