// Ctrl-C and a polite kill, as a flag that a run looks at between steps.
#pragma once

#include <atomic>

namespace tenon::cli {

// From here on SIGINT and SIGTERM are taken by a thread of their own and by no other: call it before the first thread of
// the process starts, for threads inherit what they leave alone. A handler on a computing thread is not an option: some
// of oneDNN's products point the stack into a buffer on the heap while they run, and the frame of a signal that arrives
// then overwrites what lies below that buffer.
void take_stop_signals();

// Until this is called either signal ends the process at once. From then on the first sets the flag, the second ends it.
const std::atomic<bool>& stop_requested();

}  // namespace tenon::cli
