/** What a metric of a server says now, by its name and labels as they are written. NaN: nothing. */
export async function metricOf(url: string, name: string): Promise<number> {
  const text = await (await fetch(`${url}/api/metrics`)).text();
  const line = text.split("\n").find((one) => one.startsWith(`${name} `));
  return Number(line?.split(" ")[1]);
}
