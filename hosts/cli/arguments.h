// Parsing a command's flags with Boost.Program_options, with errors that name the nearest flag.
#pragma once

#include <boost/program_options.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace tenon::cli {

namespace po = boost::program_options;

// A mistake on the command line: exit code 2 and one sentence.
class Usage : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Parses `arguments` against `options`; positional names take what stands without a flag. `--help` prints `help` and the options and
// answers false: the command is done.
bool parse(const std::vector<std::string>& arguments, const po::options_description& options, const po::positional_options_description& positional,
           const std::string& help, po::variables_map& values);

// A size with a unit: "800MB", "24GiB", "100KiB", "1048576". `flag` names it in errors. Throws Usage.
uint64_t parse_size(const std::string& text, const std::string& flag);

// Numbers with a range. Throws Usage that names flag, value and range.
int64_t checked_int(const po::variables_map& values, const char* flag, int64_t min, int64_t max);
double checked_double(const po::variables_map& values, const char* flag, double min, double max);

template <class T>
T value_or(const po::variables_map& values, const char* flag, T fallback) {
  return values.count(flag) ? values[flag].as<T>() : fallback;
}
std::string required(const po::variables_map& values, const char* flag);

}  // namespace tenon::cli
