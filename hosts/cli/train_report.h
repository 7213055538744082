// What a training run leaves for people: the HTML report and the samples.
#pragma once

#include <chrono>
#include <nlohmann/json_fwd.hpp>

#include "hosts/cli/arguments.h"
#include "hosts/trainer/report/report.h"
#include "hosts/trainer/run/train.h"

namespace tenon::cli {

class TrainReport {
 public:
  TrainReport(const po::variables_map& values, const std::vector<std::string>& arguments, const trainer::Runtime& runtime,
              const trainer::ModelSource& source);

  void set_parameters(int64_t total, int64_t trainable);
  void add_note(const std::string& line) { data_.notes.push_back(line); }
  void add_step(const trainer::StepResult& step, double tokens_per_second);
  void add_evaluation(const trainer::EvaluationPoint& point);
  void add_sample(const std::string& label, const std::string& prompt, const std::string& text) { data_.samples.push_back({label, prompt, text}); }

  // Writes OUTPUT/report.html and answers its path.
  std::string write(const std::string& output, const trainer::TrainResult& result);
  nlohmann::json samples_json() const;
  void print_samples() const;

 private:
  trainer::ReportData data_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

// Most resident memory of this process so far, bytes.
uint64_t process_peak_bytes();

}  // namespace tenon::cli
