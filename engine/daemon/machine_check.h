// bp doctor's look at the machine: what a deployment will need from it.
#pragma once
#include <vector>

#include "bp/v1/control.pb.h"
#include "engine/shell/settings.h"

namespace bp::daemon {
std::vector<v1::DoctorFinding> check_machine(const shell::Settings& settings);
}  // namespace bp::daemon
