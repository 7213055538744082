#include "hosts/cli/arguments.h"

#include <charconv>
#include <cmath>
#include <iostream>

#include "core/plugins/nearest.h"

namespace tenon::cli {

bool parse(const std::vector<std::string>& arguments, const po::options_description& options, const po::positional_options_description& positional,
           const std::string& help, po::variables_map& values) {
  namespace style = po::command_line_style;
  for (const std::string& a : arguments)
    if (a == "--help" || a == "-h") {
      std::cout << help << "\n" << options << std::flush;
      return false;
    }
  try {
    po::store(po::command_line_parser(arguments)
                  .options(options)
                  .positional(positional)
                  .style(style::unix_style & ~style::allow_guessing & ~style::allow_short)
                  .run(),
              values);
    po::notify(values);
  } catch (const po::unknown_option& e) {
    std::vector<std::string> names;
    for (const auto& o : options.options()) names.push_back("--" + o->long_name());
    const std::string flag = e.get_option_name().substr(0, e.get_option_name().find('='));
    throw Usage("unknown flag " + flag + suggestion(flag, names, "there are"));
  } catch (const po::too_many_positional_options_error&) {
    throw Usage("there are more arguments than this command takes; --help shows them");
  } catch (const po::invalid_option_value& e) {
    throw Usage("the value of " + e.get_option_name() + " is not of the kind that the flag takes; --help shows it");
  } catch (const po::error& e) {
    throw Usage(std::string(e.what()) + "; --help shows the flags");
  }
  return true;
}

uint64_t parse_size(const std::string& text, const std::string& flag) {
  const auto refuse = [&]() -> Usage { return Usage(flag + " " + text + " is not a size such as 800MB, 24GiB or 1048576"); };
  double number = 0;
  const auto [p, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || !(number >= 0) || !std::isfinite(number)) throw refuse();
  const std::string unit(p, text.data() + text.size());
  double factor = 1;
  if (unit == "" || unit == "B")
    factor = 1;
  else if (unit == "KB" || unit == "kB")
    factor = 1e3;
  else if (unit == "MB")
    factor = 1e6;
  else if (unit == "GB")
    factor = 1e9;
  else if (unit == "TB")
    factor = 1e12;
  else if (unit == "KiB" || unit == "K" || unit == "k")
    factor = 1024;
  else if (unit == "MiB" || unit == "M")
    factor = 1048576;
  else if (unit == "GiB" || unit == "G")
    factor = 1073741824.0;
  else if (unit == "TiB" || unit == "T")
    factor = 1099511627776.0;
  else
    throw refuse();
  if (number * factor > 9e18) throw refuse();
  return static_cast<uint64_t>(number * factor);
}

int64_t checked_int(const po::variables_map& values, const char* flag, int64_t min, int64_t max) {
  const std::string text = values[flag].as<std::string>();
  int64_t x = 0;
  const auto [p, error] = std::from_chars(text.data(), text.data() + text.size(), x);
  if (error != std::errc() || p != text.data() + text.size() || x < min || x > max)
    throw Usage("--" + std::string(flag) + " " + text + " is not a whole number from " + std::to_string(min) + " to " + std::to_string(max));
  return x;
}

double checked_double(const po::variables_map& values, const char* flag, double min, double max) {
  const std::string text = values[flag].as<std::string>();
  double x = 0;
  const auto [p, error] = std::from_chars(text.data(), text.data() + text.size(), x);
  if (error != std::errc() || p != text.data() + text.size() || !(x >= min && x <= max)) {
    char range[80];
    std::snprintf(range, sizeof range, "%g to %g", min, max);
    throw Usage("--" + std::string(flag) + " " + text + " is not a number from " + range);
  }
  return x;
}

std::string required(const po::variables_map& values, const char* flag) {
  if (!values.count(flag) || values[flag].as<std::string>().empty()) throw Usage("--" + std::string(flag) + " is missing; --help shows the flags");
  return values[flag].as<std::string>();
}

}  // namespace tenon::cli
