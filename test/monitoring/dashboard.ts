/*
 * dashboard.ts: what monitoring/grafana-dashboard.json must be, by @grafana/schema, which has the
 * schema as TypeScript's types.  monitoring.pl adds `const dashboard: Checked = ...` with the
 * JSON; as a literal it may have no member that the schema does not know.
 *
 * The schema of a dashboard leaves a panel's options open, so those of each kind of panel that
 * is used are put in here.  @grafana/schema does not have the queries of Prometheus any more:
 * Target says which of their members are used.
 *
 * Copyright (c) 2026, echocache developers
 */
import type { AnnotationQuery, Dashboard, DataSourceRef, Panel, RowPanel } from '@grafana/schema';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as timeline from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

/* As JSON has it: a string instead of the member of an enum. */
type Json<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Json<T[K]> } : T;

interface Target {
	refId: string;
	expr: string;
	datasource: DataSourceRef;
	legendFormat?: string;
	format?: 'time_series' | 'table';
	instant?: boolean;
	range?: boolean;
}

interface Defaults<Custom> extends Omit<NonNullable<Panel['fieldConfig']>['defaults'], 'custom'> {
	custom?: Custom;
}

/* One kind of panel. */
interface Kind<Type, Options, Custom = never> extends Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'targets'> {
	type: Type;
	id: number;
	title: string;
	gridPos: NonNullable<Panel['gridPos']>;
	options: Options;
	fieldConfig: Omit<NonNullable<Panel['fieldConfig']>, 'defaults'> & { defaults: Defaults<Custom> };
	targets: Target[];
}

type Known =
	| Kind<'stat', stat.Options>
	| Kind<'state-timeline', timeline.Options, timeline.FieldConfig>
	| Kind<'timeseries', timeseries.Options, timeseries.FieldConfig>
	| Kind<'table', table.Options, Partial<table.FieldConfig>>
	| RowPanel;

type Checked = Json<Omit<Dashboard, 'annotations' | 'panels'> &
	{ uid: string; title: string; annotations: { list: AnnotationQuery<Target>[] }; panels: Known[] }>;

