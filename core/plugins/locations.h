// Where the parts of an installation lie, relative to the program or library that contains this code.
#pragma once

#include <string>

namespace tenon {

// The folder of the executable, or of libtenon where that contains this code. Links are resolved.
std::string own_folder();

// The helper program `tenon-probe`: beside this program or library, in ../libexec/tenon or in ../bin. Throws where it
// is missing.
std::string probe_program();

// The store that comes with the installation (../lib/tenon beside a program, tenon/ beside the library), whether or not
// it exists.
std::string bundled_store();

// The user's store: $TENON_HOME, else $XDG_DATA_HOME/tenon, else ~/.local/share/tenon. The environment is ignored when
// the process has elevated privileges; then, and without a home, it is "".
std::string user_store();

// The user's keys and decisions: $XDG_CONFIG_HOME/tenon, else ~/.config/tenon; "" as for user_store().
std::string user_config();

}  // namespace tenon
