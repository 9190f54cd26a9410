// Draws `dashboard` with `results` (data.js sets both) as Grafana does: with its components, theme, formats and grid.
import inter from '@fontsource/inter/files/inter-latin-400-normal.woff2';
import interMedium from '@fontsource/inter/files/inter-latin-500-normal.woff2';
import {
  FieldType, createTheme, dateTime, formattedValueToString, getDisplayProcessor, getMinMaxAndDelta, toDataFrame,
} from '@grafana/data';
import { BigValue, GlobalStyles, PanelChrome, ThemeContext, TimeSeries } from '@grafana/ui';
import { createRoot } from 'react-dom/client';

const COLUMNS = 24;
const ROW_HEIGHT = 30;
const GAP = 8;
const WIDTH = 1600;
const LABEL_WIDTH = 90;
const { dashboard, results, range } = globalThis;
const theme = createTheme({ colors: { mode: 'dark' } });

// The defaults of Grafana's plugins.
const DEFAULTS = {
  drawStyle: 'line', lineInterpolation: 'linear', lineWidth: 1, fillOpacity: 0, gradientMode: 'none', spanNulls: false,
  showPoints: 'never', pointSize: 5, barAlignment: 0, stacking: { mode: 'none', group: 'A' }, axisPlacement: 'auto',
  axisLabel: '', axisColorMode: 'text', axisBorderShow: false, axisCenteredZero: false, axisGridShow: true,
  scaleDistribution: { type: 'linear' }, thresholdsStyle: { mode: 'off' },
  hideFrom: { legend: false, tooltip: false, viz: false },
};
const LEGEND = { showLegend: true, displayMode: 'list', placement: 'bottom', calcs: [] };

function frames(panel) {
  const { defaults = {}, overrides = [] } = panel.fieldConfig ?? {};
  if (overrides.length) {
    throw new Error(`${panel.title}: overrides are not drawn here`);
  }
  const palette = { mode: panel.type === 'timeseries' ? 'palette-classic' : 'thresholds' };
  const config = { color: palette, ...defaults, custom: { ...DEFAULTS, ...defaults.custom } };
  return results[panel.id].map((series, index) => {
    const frame = toDataFrame({
      fields: [
        { name: 'Time', type: FieldType.time, values: series.times },
        {
          name: 'Value',
          type: FieldType.number,
          values: series.values,
          labels: series.labels,
          config: { ...config, displayNameFromDS: series.name },
        },
      ],
    });
    for (const field of frame.fields) {
      field.state = { seriesIndex: index, range: getMinMaxAndDelta(field) };
      field.display = getDisplayProcessor({ field, theme, timeZone: 'utc' });
    }
    return frame;
  });
}

function Stat({ panel, width, height }) {
  const [{ fields: [x, y] }] = frames(panel);
  const last = y.values.findLast((value) => value !== null);
  return (
    <BigValue
      value={y.display(last)}
      sparkline={panel.options.graphMode === 'none' ? undefined : { x, y }}
      {...{ width, height, theme, ...panel.options }}
    />
  );
}

function Lines({ panel, width, height }) {
  return (
    <TimeSeries
      frames={frames(panel)}
      timeRange={{ from: dateTime(range.from), to: dateTime(range.to), raw: range }}
      timeZone="utc"
      legend={{ ...LEGEND, ...panel.options?.legend }}
      {...{ width, height }}
    />
  );
}

// A state timeline, of which Grafana publishes no component: adjacent equal values are one bar, in their mapping's colour.
function States({ panel, width, height }) {
  const place = (time) => LABEL_WIDTH + ((time - range.from) / (range.to - range.from)) * (width - LABEL_WIDTH);
  const every = frames(panel);
  const rowHeight = Math.min(height / every.length, 60);
  return every.map(({ fields: [{ values: times }, { values, display, config }] }, row) => {
    const starts = times.map((_, i) => i).filter((i) => i === 0 || values[i] !== values[i - 1]);
    return (
      <div key={row}>
        <div style={{ position: 'absolute', top: row * rowHeight + rowHeight / 3 }}>{config.displayNameFromDS}</div>
        {starts.map((start, nth) => {
          const end = times[starts[nth + 1] ?? times.length - 1];
          const { text, color } = display(values[start]);
          const left = place(times[start]);
          const style = {
            position: 'absolute', overflow: 'hidden', textAlign: 'center', left, background: color, top: row * rowHeight,
            width: place(end) - left, height: rowHeight - GAP, lineHeight: `${rowHeight - GAP}px`,
            color: theme.colors.getContrastText(color),
          };
          return <div key={start} style={style}>{place(end) - left > 40 ? text : ''}</div>;
        })}
      </div>
    );
  });
}

// A table, as the transformations of Grafana make it of instant queries: merge, sortBy and organize. Grafana's own
// component scrolls, and would show only some rows.
function Table({ panel }) {
  const { sortBy, organize } = Object.fromEntries(panel.transformations.map(({ id, options }) => [id, options]));
  const { excludeByName, indexByName, renameByName } = organize;
  const merged = new Map();
  for (const { refId, labels, values: [value] } of results[panel.id]) {
    const key = JSON.stringify(Object.entries(labels).sort());
    merged.set(key, { ...labels, ...merged.get(key), [`Value #${refId}`]: value });
  }
  const [{ field }] = sortBy.sort;
  const rows = [...merged.values()].sort((one, other) => (other[field] ?? -Infinity) - (one[field] ?? -Infinity));
  const columns = Object.keys(indexByName)
    .filter((name) => !excludeByName[name])
    .sort((one, other) => indexByName[one] - indexByName[other]);
  const shown = (name, value) => {
    if (typeof value !== 'number') {
      return { text: value };
    }
    const { overrides, defaults } = panel.fieldConfig;
    const own = overrides.filter(({ matcher }) => matcher.options === renameByName[name]);
    const properties = own.flatMap((override) => override.properties.map(({ id, value: set }) => [id, set]));
    const config = { ...defaults, ...Object.fromEntries(properties) };
    const display = getDisplayProcessor({ field: { type: FieldType.number, config }, theme })(value);
    return { text: formattedValueToString(display), color: config.mappings && display.color };
  };
  return (
    <table style={{ width: '100%' }}>
      <thead>
        <tr>{columns.map((name) => <th key={name} style={cell(name)}>{renameByName[name]}</th>)}</tr>
      </thead>
      <tbody>
        {rows.map((row, index) => (
          <tr key={index} style={{ borderTop: `1px solid ${theme.colors.border.weak}` }}>
            {columns.map((name) => {
              const { text, color } = shown(name, row[name]);
              return <td key={name} style={{ ...cell(name), color }}>{text}</td>;
            })}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

const cell = (name) => ({ padding: '6px 8px', textAlign: name.startsWith('Value') ? 'right' : 'left' });

const DRAWN_BY = { stat: Stat, table: Table, timeseries: Lines, 'state-timeline': States };

const folded = ({ title, collapsed, panels }) => (collapsed ? `▸ ${title} (${panels.length} panels)` : title);

function Panel({ panel }) {
  const { x, y, w, h } = panel.gridPos;
  const column = WIDTH / COLUMNS;
  const size = { width: w * column - GAP, height: h * (ROW_HEIGHT + GAP) - GAP };
  const place = { position: 'absolute', left: x * column, top: y * (ROW_HEIGHT + GAP), ...size };
  if (panel.type === 'row') {
    return <div style={{ ...place, ...theme.typography.h5, lineHeight: `${ROW_HEIGHT}px` }}>{folded(panel)}</div>;
  }
  const Drawn = DRAWN_BY[panel.type];
  if (!Drawn) {
    throw new Error(`${panel.title}: ${panel.type} is not drawn here`);
  }
  return (
    <div style={place}>
      <PanelChrome title={panel.title} description={panel.description} {...size}>
        {(width, height) => (
          <div style={{ position: 'relative', width, height }}>
            {results[panel.id].length ? <Drawn {...{ panel, width, height }} /> : panel.fieldConfig.defaults.noValue}
          </div>
        )}
      </PanelChrome>
    </div>
  );
}

function Page() {
  const rows = Math.max(...dashboard.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <style>{`
        @font-face { font-family: Inter; font-weight: 400; src: url(${inter}) }
        @font-face { font-family: Inter; font-weight: 500 700; src: url(${interMedium}) }
        body { background: ${theme.colors.background.canvas} !important; margin: ${2 * GAP}px }
      `}</style>
      <h3>{dashboard.title}</h3>
      <div style={{ position: 'relative', width: WIDTH, height: rows * (ROW_HEIGHT + GAP) }}>
        {dashboard.panels.map((panel) => <Panel key={panel.id} panel={panel} />)}
      </div>
    </ThemeContext.Provider>
  );
}

createRoot(document.getElementById('page')).render(<Page />);
