// Which rules the scripts of the pages keep.

import js from "@eslint/js";
import globals from "globals";

const PAGES = "src/**/assets/*.js";

export default [
  { ignores: ["**/bundles/", "**/.*/", "node_modules/", "out/"] },
  js.configs.recommended,
  {
    rules: {
      eqeqeq: ["error", "always"],
      "no-var": "error",
      "prefer-const": ["error", { destructuring: "all" }],
      "no-unused-vars": ["error", { ignoreRestSiblings: true }],
      "object-shorthand": "error",
      "no-implied-eval": "error",
      "no-restricted-syntax": [
        "error",
        {
          selector:
            "AssignmentExpression[left.property.name=/^(inner|outer)HTML$/], CallExpression[callee.property.name='insertAdjacentHTML']",
          message: "texts are set as text, never as markup",
        },
      ],
    },
    linterOptions: { reportUnusedDisableDirectives: "error" },
  },
  { files: [PAGES], languageOptions: { globals: globals.browser } },
  { files: ["**/*.mjs"], languageOptions: { globals: globals.node } },
];
