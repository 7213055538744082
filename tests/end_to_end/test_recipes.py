"""The recipes of examples/recipes: every one is planned by the program as it stands, and the flags of the command line win."""
import json

import cli

RECIPES = sorted((cli.ROOT / "examples" / "recipes").glob("*.json"))


class Recipes(cli.Cli):
    def test_every_recipe_is_planned(self):
        self.assertGreaterEqual(len(RECIPES), 5)
        for path in RECIPES:
            with self.subTest(path.name):
                model = [] if "model" in json.loads(path.read_text()) else ["--model", "preset:60m"]
                plan = self.answer("plan", "--recipe", path, *model)
                self.assertGreater(plan["planned_bytes"], 1 << 20)

    def test_llama_7b_fits_into_24_gb(self):
        plan = self.answer("plan", "--recipe", cli.ROOT / "examples" / "recipes" / "llama-7b-in-24gb.json")
        self.assertGreater(plan["parameters"], 6_000_000_000)
        self.assertLess(plan["planned_bytes"], 24e9)

    def test_the_command_line_wins(self):
        recipe = cli.ROOT / "examples" / "recipes" / "lora-nf4.json"
        longer = self.answer("plan", "--recipe", recipe, "--model", "preset:9m", "--batch-size", 16)
        self.assertGreater(longer["planned_bytes"], 1.5 * self.answer("plan", "--recipe", recipe, "--model", "preset:9m")["planned_bytes"])

    def test_what_is_no_flag_is_refused_by_name(self):
        recipe = self.folder / "recipe.json"
        recipe.write_text('{"batch_sise": 4}')
        self.refuse("plan", "--recipe", recipe, "--model", "preset:9m", names=["batch_sise", "recipe.json"])
        recipe.write_text('{"batch-size": 4, "batch-size": 8}')
        self.refuse("plan", "--recipe", recipe, "--model", "preset:9m", names=["batch-size", "recipe.json"])

    def test_a_weight_budget_needs_weights_in_segments(self):
        self.refuse("plan", "--model", "preset:9m", "--weight-budget", "5MB", names=["--weight-budget", "bitstack"])


if __name__ == "__main__":
    cli.main()
