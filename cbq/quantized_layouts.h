// Folders whose layers have codes in the layouts of other programs (cbq/exporters/layout_reader.h).
#pragma once

#include <filesystem>
#include <memory>

#include "cbq/exporters/export_plan.h"
#include "nn/transformer.h"

namespace cbq {

/// Whether config.json names the method of a layout reader.
bool is_in_foreign_layout(const std::filesystem::path& folder);

/// open_quantized and export_plan_of of such a folder. A layer whose tensors are codes is
/// quantized, another one is in floating point; a notice tells where config.json says otherwise.
/// Both throw std::runtime_error naming file, tensor or field, and a remedy.
std::unique_ptr<Transformer> open_layout(const std::filesystem::path& folder, Dtype dtype,
                                         Device device);
ExportPlan export_plan_of_layout(const std::filesystem::path& folder);

}  // namespace cbq
