// One command of the program: a name, a line for the overview, and what it does.
#pragma once

#include <string>
#include <vector>

namespace tenon::cli {

struct Command {
  const char* name;
  const char* summary;
  // Arguments after the command's name. Returns the exit code; failures throw tenon::Error or Usage.
  int (*run)(const std::vector<std::string>& arguments);
};

int run_bench(const std::vector<std::string>& arguments);
int run_check(const std::vector<std::string>& arguments);
int run_combine(const std::vector<std::string>& arguments);
int run_compare(const std::vector<std::string>& arguments);
int run_conformance(const std::vector<std::string>& arguments);
int run_devices(const std::vector<std::string>& arguments);
int run_eval(const std::vector<std::string>& arguments);
int run_generate(const std::vector<std::string>& arguments);
int run_merge(const std::vector<std::string>& arguments);
int run_new_plugin(const std::vector<std::string>& arguments);
int run_plan(const std::vector<std::string>& arguments);
int run_plugin(const std::vector<std::string>& arguments);
int run_quantize(const std::vector<std::string>& arguments);
int run_tokenize(const std::vector<std::string>& arguments);
int run_train(const std::vector<std::string>& arguments);

}  // namespace tenon::cli
