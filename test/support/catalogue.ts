import pg from "pg";

/** All that the schema is, one line a thing, in order. Names of columns are in the order of the table. */
export async function catalogue(url: string): Promise<string[]> {
  let lines: string[] = [];
  await connected(url, async (client) => {
    await client.query("set search_path = pg_catalog");
    const { rows } = await client.query(catalogueQuery);
    lines = rows.map(({ line }) => line);
  });
  return lines;
}

/** Use a connection, and end it. */
export async function connected(
  url: string,
  use: (client: pg.Client) => Promise<void>,
): Promise<void> {
  const client = new pg.Client({ connectionString: url, statement_timeout: 10_000 });
  await client.connect();
  try {
    await use(client);
  } finally {
    await client.end();
  }
}

const catalogueQuery = `
  with mine as (select * from pg_class where relnamespace = 'public'::regnamespace)
  select line from (
    select format('%s %s rls %s forced %s owner %s acl %s options %s', relkind, relname, relrowsecurity,
      relforcerowsecurity, relowner::regrole, relacl, reloptions) as line
    from mine where relkind in ('r', 'p', 'v', 'm', 'S')
    union all
    select format('column %s.%s %s %s null %s default %s identity %s acl %s', relname, attnum - (
        select count(*) from pg_attribute as gone
        where gone.attrelid = mine.oid and gone.attisdropped and gone.attnum < pg_attribute.attnum
      ), attname, format_type(atttypid, atttypmod), not attnotnull,
      pg_get_expr(adbin, adrelid), attidentity, attacl)
    from mine join pg_attribute on attrelid = mine.oid and attnum > 0 and not attisdropped
    left join pg_attrdef on adrelid = mine.oid and adnum = attnum
    where relkind in ('r', 'p', 'v', 'm')
    union all
    select format('constraint %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
    from pg_constraint where connamespace = 'public'::regnamespace
    union all
    select format('index %s', indexdef) from pg_indexes where schemaname = 'public'
    union all
    select format('policy %s', to_jsonb(pg_policies)) from pg_policies where schemaname = 'public'
    union all
    select format('trigger %s', pg_get_triggerdef(pg_trigger.oid))
    from pg_trigger join mine on tgrelid = mine.oid where not tgisinternal
    union all
    select format('function %s acl %s', pg_get_functiondef(oid), proacl)
    from pg_proc where pronamespace = 'public'::regnamespace
    union all
    select format('view %s', pg_get_viewdef(oid)) from mine where relkind in ('v', 'm')
    union all
    select format('type %s %s', typname, typtype)
    from pg_type where typnamespace = 'public'::regnamespace and typtype in ('d', 'e', 'r')
    union all
    select format('schema public %s', acl) from pg_namespace, unnest(nspacl) as acl
    where nspname = 'public' and acl::text ~ '^callora_(app|worker)='
  ) as described order by line
`;
