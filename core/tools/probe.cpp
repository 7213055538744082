// tenon-probe OBJECT: loads a plugin object, tries it, and answers on file descriptor 3. Started by libtenon, one per
// object, so that a plugin that crashes or hangs takes down nothing but this process.
#include <cstdio>

#include "core/plugins/probe.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("tenon-probe is started by libtenon to look at a plugin object; it has no use of its own\n", stderr);
    return 2;
  }
  return tenon::run_probe_child(argv[1], 3);
}
