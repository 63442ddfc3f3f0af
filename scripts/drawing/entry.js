export { areaY, barX, cell, dot, line, plot, rect, ruleX, ruleY, text, tickX } from "@observablehq/plot";
