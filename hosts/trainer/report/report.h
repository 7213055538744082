// A training run as one HTML page: self-contained, no script, nothing loaded from outside, light and dark.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace tenon::trainer {

inline constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

// A number that is not known or not finite leaves a gap in its chart and a dash in the text.
struct ReportStep {
  int64_t step = 0;
  double loss = kUnknown, lr = kUnknown, grad_norm = kUnknown, tokens_per_second = kUnknown;
  double seconds = kUnknown;  // since the run began, when the step ended
  bool skipped = false;
};

struct ReportEvaluation {
  int64_t step = 0;
  double loss = kUnknown, perplexity = kUnknown;
};

struct ReportMemory {
  std::string category;
  uint64_t planned_bytes = 0, peak_bytes = 0;
};

struct ReportSample {
  std::string label, prompt, text;  // "before training", what was asked, what the model went on with
};

// Texts may hold anything, in UTF-8; an empty text, a zero or an empty list means that there is nothing to say.
struct ReportData {
  std::string title, model, data, device, command_line;
  std::vector<std::pair<std::string, std::string>> mix;  // {"optimizer", "galore:rank=128"}
  int64_t total_parameters = 0, trainable_parameters = 0;
  std::vector<std::pair<std::string, std::string>> settings;  // shown in this order
  std::vector<ReportStep> steps;                              // in order of step
  std::vector<ReportEvaluation> evaluations;
  std::vector<ReportMemory> memory;
  uint64_t planned_total = 0, peak_total = 0;  // bytes on the device
  uint64_t process_peak = 0;                   // bytes of the whole process
  std::vector<ReportSample> samples;
  std::vector<std::string> notes;
};

// Long runs are thinned, so that the page stays below about a megabyte beside the texts given.
std::string html_report(const ReportData& data);

}  // namespace tenon::trainer
