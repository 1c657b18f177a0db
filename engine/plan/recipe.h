// Recipes: JSON in, one canonical Recipe out, or every problem at once. Pure: no clock, no I/O.
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "bp/v1/common.pb.h"
#include "bp/v1/recipe.pb.h"
#include "engine/base/result.h"
#include "engine/base/secret.h"

namespace bp::plan {

struct ParsedRecipe {
  v1::Recipe recipe;                           // holds no secret
  std::map<std::string, Secret> secrets;       // "par-0" -> the PAR URL
  std::vector<v1::Problem> problems;           // empty: valid
  bool ok() const { return problems.empty(); }
};

/// Parses and checks both syntax and every rule that needs no look outside. Never fails as a whole:
/// unreadable JSON is one problem with path "$" naming line and column.
ParsedRecipe parse_recipe(std::string_view json);

/// The recipe's text with the `par` of each of its input_object_storage entries replaced: `pars[i]` for
/// entry i, or the only one given for all. How a client fills in what must not stand in a file or argv.
/// kInvalidRecipe: not JSON, or no entries; kInvalidArgument: neither one PAR nor one for each entry.
Result<std::string> fill_pars(std::string_view json, const std::vector<Secret>& pars);

/// One line per problem: "$.path: found F, expected E; remedy".
std::string format_problems(const std::vector<v1::Problem>& problems);

}  // namespace bp::plan
