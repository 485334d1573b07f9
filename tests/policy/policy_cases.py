"""One well-formed policy text that the tests vary."""

DOCUMENT = """\
---
id: used_cars
version: 1.2.0
title: Used cars
label: UC
threshold: 0.6
applies_to: [input, output]
language: en
---
# Policy

## Overview

This policy classifies whether content offers cars for sale, at a moderate strictness level.

## Definition of Terms

- **Vehicle**: Any car or van that had an owner before.

## Interpretation of Language

- Quoted text counts like any other text.

## Definition of Labels

### (UC): Used cars

#### Includes

- **Offer**: Content that offers a **vehicle** for sale at a price (e.g., "selling my old van"). **Excludes**: toy cars.
- **Search**: Content that asks where a **vehicle** can be bought today (e.g., "any estate cars going?").

#### Excludes

- **Repair**: Content that asks how to repair a **vehicle** at home (e.g., "the brakes squeak").
- **New cars**: Content that speaks of cars straight from the factory line (e.g., "the new model").
- **Toys**: Content that sells toy cars or models to collectors (e.g., "a tin racer").

## Tests

```yaml
- text: "My estate, 2011, 900 or near offer"
  expect: 1
  why: "Offer"
- text: "# Why does my gearbox whine?"
  expect: 0
  why: "Repair"
```

## Changes

- 1.2.0 (2026-02-01): Searches count.
- 1.0.0 (2026-01-01): First version.
"""
