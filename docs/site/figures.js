// Draws every element of class sm-figure with plotly when it comes into view; its data stand in the element itself.
(function () {
  "use strict";
  function dark() {
    return document.documentElement.dataset.theme === "dark" || (document.body && document.body.classList.contains("quarto-dark"));
  }
  function ink() { return dark() ? "#b6c0ca" : "#57606a"; }
  function draw(element) {
    if (element.dataset.drawn || !window.Plotly) return;
    element.dataset.drawn = "yes";
    var figure = JSON.parse(element.dataset.figure), layout = figure.layout || {};
    layout.autosize = true;
    layout.paper_bgcolor = "rgba(0,0,0,0)";
    layout.plot_bgcolor = "rgba(0,0,0,0)";
    layout.font = Object.assign({}, layout.font, {color: ink()});
    window.Plotly.newPlot(element, figure.data, layout, {displaylogo: false, responsive: true});
  }
  function start() {
    var all = document.querySelectorAll(".sm-figure");
    if (!("IntersectionObserver" in window)) { all.forEach(draw); return; }
    var seen = new IntersectionObserver(function (entries) {
      entries.forEach(function (entry) { if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); } });
    }, {rootMargin: "300px"});
    all.forEach(function (element) { seen.observe(element); });
    var watch = new MutationObserver(function () {
      all.forEach(function (element) { if (element.dataset.drawn) window.Plotly.relayout(element, {"font.color": ink()}); });
    });
    watch.observe(document.documentElement, {attributes: true, attributeFilter: ["data-theme"]});
    watch.observe(document.body, {attributes: true, attributeFilter: ["class"]});
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start); else start();
})();
